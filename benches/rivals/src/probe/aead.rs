//! What AES-256-GCM costs on its own: the floor of encryption.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce};
use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::cpu;
use crate::job::Processes;

/// Sealing and opening so many bytes, in place, beside a header that is authenticated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Aead {
    pub(crate) bytes: usize,
    pub(crate) header: usize,
    pub(crate) millis: u64,
}

impl Aead {
    /// Microseconds for a pair: once sealed, once opened.
    pub(crate) fn run(self) -> Result<f64> {
        let limit = Duration::from_millis(self.millis * 2 + 5000);
        Ok(serde_json::from_str(&Processes::start("aead", &self)?.output(limit)?)?)
    }

    /// In a process of its own.
    pub(crate) fn play(argument: &str) -> Result<()> {
        let this: Self = serde_json::from_str(argument)?;
        cpu::pin(cpu::allowed().first().copied())?;
        println!("{}", this.measure()?);
        Ok(())
    }

    fn measure(self) -> Result<f64> {
        let cipher = Aes256Gcm::new(&[7; 32].into());
        let (mut bytes, header) = (vec![1; self.bytes], vec![2; self.header]);
        let mut number = 0_u64;
        let mut pairs = |until: Instant| -> Result<f64> {
            let (began, mut count) = (Instant::now(), 0);
            while Instant::now() < until {
                for _ in 0..16 {
                    pair(&cipher, number, &header, black_box(&mut bytes))?;
                    number += 1;
                }
                count += 16;
            }
            Ok(began.elapsed().as_secs_f64() * 1e6 / f64::from(count))
        };
        let duration = Duration::from_millis(self.millis);
        pairs(Instant::now() + duration / 4)?;
        pairs(Instant::now() + duration)
    }
}

fn pair(cipher: &Aes256Gcm, number: u64, header: &[u8], bytes: &mut [u8]) -> Result<()> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&number.to_le_bytes());
    let nonce = Nonce::from(nonce);
    let tag = cipher.encrypt_inout_detached(&nonce, header, (&mut *bytes).into());
    let tag = tag.map_err(|_| anyhow!("not sealed"))?;
    let opened = cipher.decrypt_inout_detached(&nonce, header, bytes.into(), &tag);
    opened.map_err(|_| anyhow!("not opened"))
}
