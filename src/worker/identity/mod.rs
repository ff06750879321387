//! Who is calling, beyond what `jarvis-fs` tells.

pub(crate) mod exe;
