//! Tokens made by hand.

/// A token's text without its checksum, and without the transaction id behind its position, so that only
/// the position counts.
#[must_use]
pub fn bare(token: &str) -> &str {
    let text = token.rsplit_once('.').unwrap().0;
    match text.match_indices('.').nth(3) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// A text with the checksum that a token has at its end.
#[must_use]
pub fn summed(text: &str) -> String {
    // FNV-1a, 32 bits.
    let fold = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
    format!("{text}.{:x}", text.bytes().fold(0x811c_9dc5, fold))
}
