//! Words that stand for the vault's and the log's own values.

use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;
use serde_json::json;

/// Reasons of a revocation (`jarvis_vault::RevocationReason`).
pub(super) const REASONS: &[&str] = &[
    "security-incident",
    "unauthorised-access",
    "employee-termination",
    "policy-violation",
    "suspected-compromise",
    "system-breach",
    "manual-request",
];

/// Levels of [`jarvis_vault::Severity`] and [`jarvis_vault::Criticality`].
pub(super) const LEVELS: &[&str] = &["low", "medium", "high", "critical"];

/// The value that `word` stands for.
pub(super) fn parse<T: DeserializeOwned>(word: &str) -> serde_json::Result<T> {
    serde_json::from_value(json!(word))
}

/// Parser of an option that takes one of `words`.
pub(super) fn one_of<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| parse(&word.replace('-', "_")))
}

#[cfg(test)]
mod tests {
    use jarvis_vault::{Criticality, RevocationReason, Severity};

    use super::*;

    /// The words of `T`, as the refusal of another one lists them.
    fn expected<T: DeserializeOwned>() -> Vec<String> {
        let refusal = parse::<T>("other").err().unwrap().to_string();
        let words = refusal.split('`').skip(3).step_by(2);
        words.map(|word| word.replace('_', "-")).collect()
    }

    #[test]
    fn the_options_are_the_words_of_the_vault() {
        assert_eq!(expected::<RevocationReason>(), REASONS);
        assert_eq!(expected::<Severity>(), LEVELS);
        assert_eq!(expected::<Criticality>(), LEVELS);
    }
}
