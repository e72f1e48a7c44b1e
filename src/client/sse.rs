//! Server-sent events, as far as an OpenAI stream uses them: `data:` lines and comments.

use crate::exit::{Error, Result};

/// One event is never larger.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Bytes in, the data of whole events out.
#[derive(Default)]
pub struct Events {
    rest: Vec<u8>,
}

impl Events {
    /// The data lines that `bytes` complete; comments and other fields are passed over.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>> {
        self.rest.extend_from_slice(bytes);
        let mut data = Vec::new();
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8(line)
                .map_err(|_| Error::Data("the stream holds an event that is no UTF-8".into()))?;
            if let Some(value) = line.trim_end().strip_prefix("data:") {
                data.push(value.trim_start().to_owned());
            }
        }
        if self.rest.len() > EVENT_BYTES_MAX {
            return Err(Error::Data(format!("the stream holds an event of more than {EVENT_BYTES_MAX} bytes")));
        }
        Ok(data)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_come_out_whole_however_they_were_cut() {
        let stream = ": waiting\n\ndata: {\"a\":\"ü\"}\n\ndata:[DONE]\r\n\r\n".as_bytes();
        for cut in 0..=stream.len() {
            let mut events = Events::default();
            let mut data = events.push(&stream[..cut]).unwrap();
            data.extend(events.push(&stream[cut..]).unwrap());
            assert_eq!(data, ["{\"a\":\"ü\"}", "[DONE]"], "cut at {cut}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        assert_eq!(Events::default().push(&vec![b'x'; EVENT_BYTES_MAX + 1]).unwrap_err().code(), 65);
    }
}
