//! Which number the kernel knows a path by. Numbers are never used twice, so a file that came back after a
//! loss is another one for the kernel, and nothing cached of the old one is believed.
//!
//! Not here: what files hold.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

pub const ROOT: u64 = 1;

#[derive(Debug)]
pub struct Tree {
    paths: BTreeMap<u64, PathBuf>,
    numbers: BTreeMap<PathBuf, u64>,
    last: u64,
}

impl Tree {
    pub fn new(root: PathBuf) -> Self {
        Self {
            paths: BTreeMap::from([(ROOT, root.clone())]),
            numbers: BTreeMap::from([(root, ROOT)]),
            last: ROOT,
        }
    }

    pub fn path(&self, number: u64) -> Option<&Path> {
        self.paths.get(&number).map(PathBuf::as_path)
    }

    pub fn number(&mut self, path: &Path) -> u64 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        self.last += 1;
        self.numbers.insert(path.to_owned(), self.last);
        self.paths.insert(self.last, path.to_owned());
        self.last
    }

    /// The path names nothing any more, or something new.
    pub fn forget(&mut self, path: &Path) {
        if let Some(number) = self.numbers.remove(path) {
            self.paths.remove(&number);
        }
    }

    /// With everything below it.
    pub fn rename(&mut self, from: &Path, to: &Path) {
        self.forget(to);
        let moved: Vec<PathBuf> = self
            .numbers
            .range(from.to_owned()..)
            .map(|(path, _)| path.clone())
            .collect();
        for old in moved.into_iter().take_while(|path| path.starts_with(from)) {
            let number = self.numbers.remove(&old).expect("it was just listed");
            let below = old.strip_prefix(from).expect("it starts with it");
            let new = if below.as_os_str().is_empty() {
                to.to_owned()
            } else {
                to.join(below)
            };
            self.paths.insert(number, new.clone());
            self.numbers.insert(new, number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_directory_takes_its_files_along() {
        let mut tree = Tree::new("/b".into());
        let (directory, file, other) = (
            tree.number(Path::new("/b/d")),
            tree.number(Path::new("/b/d/f")),
            tree.number(Path::new("/b/de")),
        );
        tree.rename(Path::new("/b/d"), Path::new("/b/x"));
        assert_eq!(tree.path(directory), Some(Path::new("/b/x")));
        assert_eq!(tree.path(file), Some(Path::new("/b/x/f")));
        assert_eq!(tree.path(other), Some(Path::new("/b/de")));
        tree.forget(Path::new("/b/x/f"));
        assert_ne!(tree.number(Path::new("/b/x/f")), file, "a number was used again");
    }
}
