//! Measurements that are of no system in no scenario; each in processes of its own too.

pub(crate) mod aead;
pub(crate) mod crowd;
