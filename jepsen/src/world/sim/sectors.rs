//! One file on a simulated disk: bytes, of which some are durable and the rest is in the page cache.
//!
//! A sector is what a disk writes at once. After a power loss each sector that was pending has its new content or
//! its old one, whatever became of its neighbours: writes are lost, torn and reordered.

/// What a disk writes as one.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
pub struct Sectors {
    bytes: Vec<u8>,
    synced: usize,
}

impl Sectors {
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub fn sync(&mut self) {
        self.synced = self.bytes.len();
    }

    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn synced_bytes(&self) -> usize {
        self.synced
    }

    pub fn all(&self) -> &[u8] {
        &self.bytes
    }

    /// Keeps the first `length` bytes.
    pub fn cut(&mut self, length: usize) {
        self.bytes.truncate(length);
        self.synced = self.bytes.len();
    }

    /// The power is gone: pending sectors are asked one by one whether they are there.
    pub fn lose(&mut self, mut keeps: impl FnMut() -> bool) {
        let mut at = self.synced;
        let mut length = self.synced;
        while at < self.bytes.len() {
            let end = ((at / SECTOR + 1) * SECTOR).min(self.bytes.len());
            if keeps() {
                length = end;
            } else {
                self.bytes[at..end].fill(0);
            }
            at = end;
        }
        self.cut(length);
    }

    /// Flips a bit of the first `length` bytes; whether there was one.
    pub fn flip(&mut self, length: usize, random: u64) -> bool {
        let length = length.min(self.synced) as u64;
        if length == 0 {
            return false;
        }
        self.bytes[(random % length) as usize] ^= 1 << (random >> 61);
        true
    }

    /// A sector of the first `length` bytes was written to the place of another one.
    pub fn misdirect(&mut self, length: usize, random: u64) -> bool {
        let sectors = (length.min(self.synced) / SECTOR) as u64;
        if sectors < 2 {
            return false;
        }
        let from = (random % sectors) as usize * SECTOR;
        let to = ((random >> 32) % sectors) as usize * SECTOR;
        if from == to {
            return false;
        }
        self.bytes.copy_within(from..from + SECTOR, to);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_loss_tears_only_what_is_pending() {
        let mut file = Sectors::default();
        file.append(&[1; 700]);
        file.sync();
        file.append(&[2; 1000]);
        let mut answers = [false, true, false].into_iter();
        file.lose(|| answers.next().unwrap_or(false));
        assert_eq!(file.all()[..700], [1; 700]);
        assert_eq!(file.all()[700..1024], [0; 324], "the rest of the second sector is lost");
        assert_eq!(file.all()[1024..], [2; 512], "the third one is there");
    }
}
