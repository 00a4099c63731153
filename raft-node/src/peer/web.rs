//! The two pages that etcd serves on its peer port and tools ask for: `GET /version` and `GET /members`.
//!
//! One request, one answer, closed. Not here: any other method, keep-alive, what the pages say.

use bytes::BytesMut;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use super::{
    Pages,
    frame::{self, FrameError},
};
use crate::limits;

/// Answers a request whose first bytes, `GET `, are already read.
pub(super) async fn answer(pages: &Pages, mut stream: TcpStream) -> Result<(), FrameError> {
    let mut request = BytesMut::new();
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if request.len() > limits::PEER_HTTP_BYTES_MAX {
            return Err(FrameError::TooLong {
                length: request.len(),
                max: limits::PEER_HTTP_BYTES_MAX,
            });
        }
        frame::fill(&mut stream, &mut request).await?;
    }
    stream
        .write_all(reply(path(&request).and_then(|path| pages(path))).as_bytes())
        .await?;
    stream.shutdown().await?;
    Ok(())
}

/// `/version` of `/version?x=y HTTP/1.1`.
fn path(request: &[u8]) -> Option<&str> {
    let end = request.iter().position(|byte| matches!(byte, b' ' | b'?' | b'\r'))?;
    std::str::from_utf8(&request[..end]).ok()
}

fn reply(page: Option<String>) -> String {
    let (status, kind, body) = match page {
        Some(page) => ("200 OK", "application/json", page),
        None => (
            "404 Not Found",
            "text/plain; charset=utf-8",
            "404 page not found\n".into(),
        ),
    };
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}
