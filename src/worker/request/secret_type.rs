//! Types of secrets as requests name them.

use jarvis_vault::{SecretType, TYPES, TypeSpec};
use serde_json::{Map, Value};

use super::checks::{Checked, field_error, invalid};

/// A type by its word, with options; `length` is one that several types have.
pub(super) fn secret_type(
    kind: &str,
    length: Option<usize>,
    options: Option<Map<String, Value>>,
) -> Checked<SecretType> {
    let mut spec = options.unwrap_or_default();
    if let Some(length) = length {
        spec.insert("length".into(), length.into());
    }
    if spec.insert("type".into(), kind.into()).is_some() {
        return invalid("`type` is no option");
    }
    let spec: TypeSpec = serde_json::from_value(Value::Object(spec)).or_else(|error| {
        let what = match error.to_string() {
            text if text.starts_with("unknown variant") && !known(kind) => {
                return invalid("an unknown `type`; see: jarvisctl types");
            }
            text => field_error(&text),
        };
        invalid(format!("type `{kind}`: {what} among its options"))
    })?;
    spec.check()
        .or_else(|error| invalid(format!("type `{kind}`: {error}")))
}

fn known(kind: &str) -> bool {
    TYPES.iter().any(|(word, ..)| *word == kind)
}
