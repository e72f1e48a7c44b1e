//! A small blocking HTTP/1.1 client: one connection a request, bodies read whole or line by line as they come.
//!
//! Small on purpose, so that a test sees exactly the bytes that the server sent: no retries, no pool, no decompression.

use super::PATIENCE;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// No response head that a test expects has more lines.
const HEAD_LINES_MAX: usize = 100;

/// An answer read to its end.
#[derive(Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Names in lower case, in the order sent.
    pub headers: Vec<(String, String)>,
    /// The body's bytes.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// Where it is none, showing it.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("status {}, no JSON ({e}): {}", self.status, self.text()))
    }
}

/// An answer whose head has been read and whose body is still coming. Dropping it closes the connection.
pub struct Body {
    /// Status code.
    pub status: u16,
    /// Names in lower case, in the order sent.
    pub headers: Vec<(String, String)>,
    reader: BufReader<Framed>,
}

impl Body {
    /// The next line without its end, or `None` after the last. Blocks until the server sends one.
    pub fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        match self.reader.read_line(&mut line)? {
            0 => Ok(None),
            _ => Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned())),
        }
    }

    /// The next server-sent event's data, or `None` after the last. Comments are skipped.
    pub fn event(&mut self) -> io::Result<Option<String>> {
        while let Some(line) = self.line()? {
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(Some(data.to_owned()));
            }
        }
        Ok(None)
    }

    /// Reads the rest.
    pub fn finish(mut self) -> io::Result<Response> {
        let mut body = Vec::new();
        self.reader.read_to_end(&mut body)?;
        Ok(Response { status: self.status, headers: self.headers, body })
    }
}

/// Sends one request and reads its whole answer.
pub fn request(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    open(to, method, path, headers, body)?.finish()
}

/// Sends one request and reads the head of its answer.
pub fn open(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<Body> {
    let stream = send(to, method, path, headers, body)?;
    answer(stream)
}

/// Sends one request and reads nothing: the first half of [`open`], for clients that leave while they wait.
pub fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("host: {to}\r\n"));
    }
    if !body.is_empty() || method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    Ok(stream)
}

/// Reads the head of the answer to a request that was sent: the second half of [`open`].
pub fn answer(stream: TcpStream) -> io::Result<Body> {
    let mut reader = BufReader::new(stream);
    let status_line = head_line(&mut reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    for _ in 0..HEAD_LINES_MAX {
        let line = head_line(&mut reader)?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok());
    let chunked = headers.iter().any(|(n, v)| n == "transfer-encoding" && v.eq_ignore_ascii_case("chunked"));
    let framing = match (chunked, length) {
        (true, _) => Framing::Chunked { left: 0, first: true },
        (false, Some(left)) => Framing::Length { left },
        (false, None) => Framing::Close,
    };
    Ok(Body { status, headers, reader: BufReader::new(Framed { reader, framing }) })
}

fn head_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "connection closed within the head"));
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Where a body ends (RFC 9112, section 6).
enum Framing {
    Length { left: u64 },
    Chunked { left: u64, first: bool },
    Ended,
    Close,
}

/// A body's bytes without their framing. A connection that closes within a framed body is an error, not an end.
struct Framed {
    reader: BufReader<TcpStream>,
    framing: Framing,
}

impl Framed {
    /// Reads a chunk's size line; true at the last chunk.
    fn next_chunk(&mut self, first: bool) -> io::Result<bool> {
        if !first {
            head_line(&mut self.reader)?;
        }
        let line = head_line(&mut self.reader)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let left = u64::from_str_radix(digits, 16).map_err(|_| io::Error::other(format!("bad chunk size {line:?}")))?;
        self.framing = if left == 0 { Framing::Ended } else { Framing::Chunked { left, first: false } };
        Ok(left == 0)
    }
}

impl Read for Framed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Framing::Chunked { left: 0, first } = self.framing
            && self.next_chunk(first)?
        {
            return Ok(0);
        }
        let left = match &mut self.framing {
            Framing::Ended | Framing::Length { left: 0 } => return Ok(0),
            Framing::Close => return self.reader.read(out),
            Framing::Length { left } | Framing::Chunked { left, .. } => left,
        };
        let want = out.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        let got = self.reader.read(&mut out[..want])?;
        if got == 0 && want > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("connection closed, {left} bytes missing"),
            ));
        }
        *left -= got as u64;
        Ok(got)
    }
}
