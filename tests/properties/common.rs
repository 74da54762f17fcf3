//! What these tests share: text that was valid before something happened to it.

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::Config;

/// What can happen to a text.
#[derive(Debug, Clone)]
pub(crate) enum Mutation {
    Delete(Index, usize),
    Insert(Index, String),
    Replace(Index, String),
    Repeat(Index, usize, usize),
    Truncate(Index),
    Swap(Index, Index),
}

impl Mutation {
    fn apply(&self, text: &str) -> String {
        let chars: Vec<char> = text.chars().collect();
        let place = |index: &Index| index.index(chars.len() + 1);
        let end = |from: usize, length: usize| (from + length).min(chars.len());
        let join = |parts: &[&[char]]| parts.concat().into_iter().collect::<String>();
        let new = |text: &str| text.chars().collect::<Vec<_>>();
        match self {
            Self::Delete(at, length) => {
                let at = place(at);
                join(&[&chars[..at], &chars[end(at, *length)..]])
            }
            Self::Insert(at, text) => {
                let at = place(at);
                join(&[&chars[..at], &new(text), &chars[at..]])
            }
            Self::Replace(at, text) => {
                let (at, text) = (place(at), new(text));
                join(&[&chars[..at], &text, &chars[end(at, text.len())..]])
            }
            Self::Repeat(at, length, times) => {
                let at = place(at);
                let part = &chars[at..end(at, *length)];
                join(&[&chars[..at], &part.repeat(*times), &chars[at..]])
            }
            Self::Truncate(at) => join(&[&chars[..place(at)]]),
            Self::Swap(one, other) => {
                let mut chars = chars.clone();
                if !chars.is_empty() {
                    let (one, other) = (one.index(chars.len()), other.index(chars.len()));
                    chars.swap(one, other);
                }
                chars.into_iter().collect()
            }
        }
    }
}

fn mutation(pieces: &'static [&'static str]) -> impl Strategy<Value = Mutation> {
    let piece = || {
        prop_oneof![
            3 => proptest::sample::select(pieces).prop_map(str::to_owned),
            1 => any::<char>().prop_map(String::from),
            1 => "\\PC{0,4}",
        ]
    };
    prop_oneof![
        (any::<Index>(), 1..12_usize).prop_map(|(at, length)| Mutation::Delete(at, length)),
        (any::<Index>(), piece()).prop_map(|(at, text)| Mutation::Insert(at, text)),
        (any::<Index>(), piece()).prop_map(|(at, text)| Mutation::Replace(at, text)),
        (any::<Index>(), 1..20_usize, 1..20_usize)
            .prop_map(|(at, length, times)| Mutation::Repeat(at, length, times)),
        any::<Index>().prop_map(Mutation::Truncate),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Mutation::Swap(one, other)),
    ]
}

/// One of these texts after up to `most` mutations, some of which put one of the pieces in.
pub(crate) fn mutated(
    texts: Vec<String>,
    pieces: &'static [&'static str],
    most: usize,
) -> impl Strategy<Value = String> {
    let mutations = proptest::collection::vec(mutation(pieces), 0..=most);
    (proptest::sample::select(texts), mutations).prop_map(|(text, mutations)| {
        mutations.iter().fold(text, |text, mutation| mutation.apply(&text))
    })
}

/// So many cases, and no files with failures: the seed is in the message.
pub(crate) fn cases(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}
