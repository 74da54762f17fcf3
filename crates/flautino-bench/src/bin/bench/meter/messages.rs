//! Where the messages of PostgreSQL's protocol end in a stream of bytes.

/// The length of a type and a length.
const HEADER: usize = 5;

/// One direction of a connection, after its start-up message.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// What has arrived of a header.
    header: Vec<u8>,
    /// How much is missing of the body after a whole header.
    missing: usize,
}

impl Messages {
    /// The types of the messages that end with these bytes, in their order.
    pub(super) fn ended(&mut self, mut bytes: &[u8]) -> Vec<u8> {
        let mut ended = Vec::new();
        while !bytes.is_empty() {
            if self.header.len() < HEADER {
                let (header, rest) = bytes.split_at(bytes.len().min(HEADER - self.header.len()));
                self.header.extend(header);
                bytes = rest;
                if self.header.len() < HEADER {
                    break;
                }
                // The length counts itself.
                let length = self.header[1..].iter();
                let length =
                    length.fold(0_usize, |length, byte| (length << 8) | usize::from(*byte));
                self.missing = length.saturating_sub(HEADER - 1);
            }
            let (body, rest) = bytes.split_at(bytes.len().min(self.missing));
            self.missing -= body.len();
            bytes = rest;
            if self.missing == 0 {
                ended.push(self.header[0]);
                self.header.clear();
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart_however_they_are_cut() {
        let bytes = b"B\0\0\0\x06abS\0\0\0\x04Q\0\0\0\x05\0";
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let mut messages = Messages::default();
                let mut ended = messages.ended(&bytes[..first]);
                ended.extend(messages.ended(&bytes[first..second]));
                ended.extend(messages.ended(&bytes[second..]));
                assert_eq!(ended, b"BSQ", "{first} {second}");
            }
        }
    }
}
