//! The text file that every client must carry through the broker, made from a seed.
//!
//! Owns: its lines. Promises: the same bytes for the same seed for ever; no empty line (kcat drops
//! those by design; the clients test empty values apart), no `\r` (line readers eat it), no NUL.
//! Contains: one-byte and blank lines, long runs, unicode of two to four bytes, and 10 KB lines.

/// Lines in the file.
pub const LINES: usize = 5000;
/// Bytes of one of the long lines.
const LONG_BYTES: usize = 10 * 1024;

/// Steele and Vigna's splitmix64: enough randomness for text, and no dependency.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

const UNICODE: [char; 12] = ['é', 'ß', 'Ж', 'ע', 'क', '中', '文', '→', '€', '🦀', '𝄞', '\u{2028}'];

const WORDS: [&str; 10] = [
    "offset",
    "watermark",
    "partition",
    "a",
    "of",
    "durable",
    "leader epoch",
    "0123456789",
    "batch",
    "queue",
];

/// The whole file; every line ends with `\n`.
pub fn text(seed: u64) -> Vec<u8> {
    let mut random = SplitMix(seed);
    let mut text = Vec::with_capacity(2 << 20);
    for index in 0..LINES {
        push_line(&mut text, index, &mut random);
        text.push(b'\n');
    }
    text
}

fn push_line(text: &mut Vec<u8>, index: usize, random: &mut SplitMix) {
    match index {
        _ if index % 97 == 5 => push_ascii(text, LONG_BYTES, random),
        _ if index.is_multiple_of(13) => text.push(b' '),
        _ if index.is_multiple_of(11) => text.push(b'a' + random.below(26) as u8),
        _ if index.is_multiple_of(7) => push_unicode(text, 1 + random.below(80), random),
        _ => {
            text.extend_from_slice(format!("{index}\t").as_bytes());
            let length = 1 + random.below(240);
            push_ascii(text, length, random);
        }
    }
}

/// Words with a random sign between them: every codec finds something to shorten.
fn push_ascii(text: &mut Vec<u8>, bytes: usize, random: &mut SplitMix) {
    let end = text.len() + bytes;
    while text.len() < end {
        text.extend_from_slice(WORDS[random.below(WORDS.len())].as_bytes());
        text.push(b' ' + random.below(95) as u8);
    }
    text.truncate(end);
}

fn push_unicode(text: &mut Vec<u8>, chars: usize, random: &mut SplitMix) {
    let mut buffer = [0; 4];
    for _ in 0..chars {
        text.extend_from_slice(UNICODE[random.below(UNICODE.len())].encode_utf8(&mut buffer).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_a_function_of_the_seed_and_has_no_line_that_a_client_would_eat() {
        let file = text(1);
        assert_eq!(file, text(1));
        assert_ne!(file, text(2));
        let body = std::str::from_utf8(&file).expect("valid utf-8");
        assert_eq!(body.split_terminator('\n').count(), LINES);
        assert!(body.split_terminator('\n').all(|line| !line.is_empty() && !line.contains(['\r', '\0'])));
        assert!(body.split_terminator('\n').any(|line| line.len() == LONG_BYTES));
        assert!(body.split_terminator('\n').any(|line| line == " "));
    }
}
