//! Why a configuration is refused.

use std::borrow::Cow;
use std::path::PathBuf;

use jarvis_sys::trust::TrustError;

/// Reason to refuse a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be opened, or others could change it.
    #[error(transparent)]
    Distrusted(#[from] TrustError),
    /// Reading the file failed.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The text is no valid TOML, or has unknown or missing keys.
    #[error("{path}: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// With line and column.
        message: String,
    },
    /// The daemon would hide what it needs.
    #[error("{path} lies below the mount point {mount}; move one of them")]
    BelowMount {
        /// The file or directory.
        path: PathBuf,
        /// The mount point.
        mount: PathBuf,
    },
    /// A value is out of range.
    #[error("{path}: {key} {rule}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The rule that the value breaks.
        rule: Cow<'static, str>,
    },
}
