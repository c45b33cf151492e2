//! An encrypted file of records, for backups.
//!
//! ```text
//!  header (56 bytes): magic 20 | version 1 | salt 16 | memory 4 | iterations 4 | parallelism 4 | nonce prefix 7
//!  segments: AES-256-GCM STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015; 32-bit counter, last-segment flag) over the
//!            records, each after its length (4 bytes), cut into plaintexts of 64 KiB of which the last may be shorter
//! ```
//! The key comes from the passphrase by Argon2id (RFC 9106) and HKDF-SHA-256 (RFC 5869), with the header's hash in it: a
//! changed header is a wrong passphrase. Counter and flag are in the nonces, so a segment that is left out, repeated,
//! moved or cut off does not open. Lengths of records do not show, beyond their sum. No I/O here: the caller moves the
//! bytes.
//!
//! **Invariant**: a record is given only from a segment that opened, in the order in which it was written, and
//! [`ArchiveOpener::finish`] succeeds only for the whole file.

use std::fmt;

use aead_stream::{DecryptorBE32, EncryptorBE32, NewStream, StreamBE32};
use aes_gcm::{Aes256Gcm, aead::KeyInit};
use argon2::{Algorithm, Argon2, Params, Version};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::{KdfParams, PasswordError};

/// The header of an archive has exactly this many bytes.
pub const ARCHIVE_HEADER_BYTES: usize = MAGIC.len() + 1 + SALT_BYTES + 12 + NONCE_BYTES;
/// All segments of an archive but the last have exactly this many bytes.
pub const ARCHIVE_SEGMENT_BYTES: usize = PLAIN_BYTES + TAG_BYTES;
/// The longest record.
pub const MAX_RECORD_BYTES: usize = 1 << 20;

const MAGIC: &[u8; 20] = b"FastChat archive\r\n\x1a\n";
const VERSION: u8 = 1;
const SALT_BYTES: usize = 16;
const NONCE_BYTES: usize = 7;
const KEY_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
const PLAIN_BYTES: usize = 64 << 10;
const LENGTH_BYTES: usize = 4;
const MAX_PASSPHRASE_BYTES: usize = 1024;
const PURPOSE: &[u8] = b"FastChat archive key v1\0";

/// Why an archive is not written or read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It does not begin as an archive does.
    #[error("this is not a FastChat archive; give the file that a backup was written to")]
    NotOne,
    /// A version that is not known here.
    #[error("the archive is of version {0}, which this program does not read; update it")]
    Version(u8),
    /// The parameters in the header are refused, or the passphrase is.
    #[error("the archive's header is damaged or hostile: {0}")]
    Parameters(PasswordError),
    /// The passphrase is empty or too long.
    #[error("a passphrase has 1 to {MAX_PASSPHRASE_BYTES} bytes")]
    Passphrase,
    /// The key could not be derived.
    #[error("the passphrase could not be processed: {0} KiB of memory are needed")]
    Derive(u32),
    /// The first segment does not open.
    #[error("the archive does not open: the passphrase is wrong, or its beginning is damaged")]
    WrongPassphrase,
    /// A later segment does not open, or the records in it do not fit.
    #[error("the archive is damaged or incomplete: what follows segment {0} cannot be read; use another copy of it")]
    Damaged(u64),
    /// A record is longer than an archive takes.
    #[error("a record of {0} bytes is longer than the {MAX_RECORD_BYTES} that an archive takes")]
    TooLong(usize),
    /// An archive has some 280 TB at most.
    #[error("the archive is full")]
    Full,
}

/// Makes an archive: [`ArchiveSealer::begin`], the records in their order, [`ArchiveSealer::finish`].
pub struct ArchiveSealer {
    stream: EncryptorBE32<Aes256Gcm>,
    plain: Zeroizing<Vec<u8>>,
}

impl ArchiveSealer {
    /// Puts the header into `out`. Takes the time and the memory that `cost` says; its salt is used.
    ///
    /// # Errors
    /// A passphrase or a cost that is not accepted, or no memory.
    pub fn begin(passphrase: &str, cost: &KdfParams, out: &mut Vec<u8>) -> Result<Self, ArchiveError> {
        let header = header(cost, rand::random())?;
        let key = ArchiveKey::derive(passphrase, &header)?;
        out.extend_from_slice(&header);
        let stream = EncryptorBE32::from_stream_primitive(key.stream());
        Ok(Self { stream, plain: Zeroizing::new(Vec::with_capacity(PLAIN_BYTES)) })
    }

    /// Takes a record in; puts the segments that are full into `out`.
    ///
    /// # Errors
    /// It is too long, or the archive is full.
    pub fn seal(&mut self, record: &[u8], out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        let length = u32::try_from(record.len()).ok().filter(|_| record.len() <= MAX_RECORD_BYTES);
        let length = length.ok_or(ArchiveError::TooLong(record.len()))?;
        self.take(&length.to_be_bytes(), out)?;
        self.take(record, out)
    }

    fn take(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            // A full segment goes only when more follows: the last one is never empty but in an archive of no records.
            if self.plain.len() == PLAIN_BYTES {
                out.extend(self.stream.encrypt_next(self.plain.as_slice()).map_err(|_| ArchiveError::Full)?);
                self.plain.zeroize();
            }
            let (now, later) = bytes.split_at(bytes.len().min(PLAIN_BYTES - self.plain.len()));
            self.plain.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Puts the last segment into `out`.
    ///
    /// # Errors
    /// The archive is full.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), ArchiveError> {
        out.extend(self.stream.encrypt_last(self.plain.as_slice()).map_err(|_| ArchiveError::Full)?);
        Ok(())
    }
}

/// The key of one archive, to read it with, more than once if need be. Wiped on drop; `Debug` shows nothing.
pub struct ArchiveKey {
    key: Zeroizing<[u8; KEY_BYTES]>,
    nonce: [u8; NONCE_BYTES],
}

impl ArchiveKey {
    /// Takes the time and the memory that the header says, within bounds.
    ///
    /// # Errors
    /// Not the header of an archive, parameters that are not accepted, or no memory. A wrong passphrase shows with the
    /// first segment.
    pub fn derive(passphrase: &str, header: &[u8; ARCHIVE_HEADER_BYTES]) -> Result<Self, ArchiveError> {
        let (cost, nonce) = parse(header)?;
        cost.validate().map_err(ArchiveError::Parameters)?;
        if passphrase.is_empty() || passphrase.len() > MAX_PASSPHRASE_BYTES {
            return Err(ArchiveError::Passphrase);
        }
        let failed = || ArchiveError::Derive(cost.memory_kib);
        let params = Params::new(cost.memory_kib, cost.iterations, cost.parallelism, Some(KEY_BYTES));
        let mut stretched = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params.map_err(|_| failed())?)
            .hash_password_into(passphrase.as_bytes(), &cost.salt, stretched.as_mut_slice())
            .map_err(|_| failed())?;
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let purpose = [PURPOSE, Sha256::digest(header).as_slice()].concat();
        Hkdf::<Sha256>::new(None, stretched.as_slice()).expand(&purpose, key.as_mut_slice()).map_err(|_| failed())?;
        Ok(Self { key, nonce })
    }

    /// Begins to read the segments, from the first.
    #[must_use]
    pub fn opener(&self) -> ArchiveOpener {
        let stream = Some(DecryptorBE32::from_stream_primitive(self.stream()));
        ArchiveOpener { stream, plain: Zeroizing::default(), read: 0, segments: 0 }
    }

    fn stream(&self) -> StreamBE32<Aes256Gcm> {
        StreamBE32::from_aead(Aes256Gcm::new((&*self.key).into()), (&self.nonce).into())
    }
}

impl fmt::Debug for ArchiveKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ArchiveKey(hidden)")
    }
}

/// Reads an archive: one segment after the other, and after each the records that it completes.
pub struct ArchiveOpener {
    /// Gone after the last segment.
    stream: Option<DecryptorBE32<Aes256Gcm>>,
    /// What was opened; everything before `read` was given.
    plain: Zeroizing<Vec<u8>>,
    read: usize,
    segments: u64,
}

impl ArchiveOpener {
    /// Opens the next segment; `last` says that the file ends behind it.
    ///
    /// # Errors
    /// It is not the next one of this archive under this passphrase, or not the last one when it should be (or the other
    /// way round).
    pub fn open(&mut self, segment: &[u8], last: bool) -> Result<(), ArchiveError> {
        let damaged = ArchiveError::Damaged(self.segments);
        if segment.len() > ARCHIVE_SEGMENT_BYTES || (!last && segment.len() != ARCHIVE_SEGMENT_BYTES) {
            return Err(damaged);
        }
        let opened = match (last, self.stream.take()) {
            (_, None) => return Err(damaged),
            (true, Some(stream)) => stream.decrypt_last(segment),
            (false, Some(mut stream)) => {
                let opened = stream.decrypt_next(segment);
                self.stream = Some(stream);
                opened
            }
        };
        let opened = match opened {
            Ok(opened) => Zeroizing::new(opened),
            Err(_) => {
                self.stream = None;
                return Err(if self.segments == 0 { ArchiveError::WrongPassphrase } else { damaged });
            }
        };
        self.segments += 1;
        let mut plain = Zeroizing::new(Vec::with_capacity(self.plain.len() - self.read + opened.len()));
        plain.extend_from_slice(self.plain.get(self.read..).unwrap_or_default());
        plain.extend_from_slice(&opened);
        (self.plain, self.read) = (plain, 0);
        Ok(())
    }

    /// The next record, if the segments so far hold all of it.
    ///
    /// # Errors
    /// Its length is out of its bounds.
    pub fn record(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, ArchiveError> {
        let rest = self.plain.get(self.read..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_RECORD_BYTES {
            return Err(ArchiveError::Damaged(self.segments));
        }
        let Some(record) = rest.get(..length) else { return Ok(None) };
        let record = Zeroizing::new(record.to_vec());
        self.read += LENGTH_BYTES + length;
        Ok(Some(record))
    }

    /// After the last segment and its last record: whether that was all.
    ///
    /// # Errors
    /// The last segment is missing, or a record is incomplete.
    pub fn finish(self) -> Result<(), ArchiveError> {
        if self.stream.is_none() && self.read == self.plain.len() {
            Ok(())
        } else {
            Err(ArchiveError::Damaged(self.segments))
        }
    }
}

fn header(cost: &KdfParams, nonce: [u8; NONCE_BYTES]) -> Result<[u8; ARCHIVE_HEADER_BYTES], ArchiveError> {
    cost.validate().map_err(ArchiveError::Parameters)?;
    let numbers = [cost.memory_kib, cost.iterations, cost.parallelism].map(u32::to_be_bytes).concat();
    let header = [MAGIC.as_slice(), &[VERSION], &cost.salt, &numbers, &nonce].concat();
    header.try_into().map_err(|_| ArchiveError::NotOne)
}

fn parse(header: &[u8; ARCHIVE_HEADER_BYTES]) -> Result<(KdfParams, [u8; NONCE_BYTES]), ArchiveError> {
    let rest = header.strip_prefix(MAGIC.as_slice()).ok_or(ArchiveError::NotOne)?;
    let (&version, rest) = rest.split_first().ok_or(ArchiveError::NotOne)?;
    if version != VERSION {
        return Err(ArchiveError::Version(version));
    }
    let (salt, rest) = rest.split_first_chunk::<SALT_BYTES>().ok_or(ArchiveError::NotOne)?;
    let (memory, rest) = number(rest)?;
    let (iterations, rest) = number(rest)?;
    let (parallelism, nonce) = number(rest)?;
    let cost = KdfParams { salt: salt.to_vec(), memory_kib: memory, iterations, parallelism };
    Ok((cost, nonce.try_into().map_err(|_| ArchiveError::NotOne)?))
}

fn number(bytes: &[u8]) -> Result<(u32, &[u8]), ArchiveError> {
    let (number, rest) = bytes.split_first_chunk::<4>().ok_or(ArchiveError::NotOne)?;
    Ok((u32::from_be_bytes(*number), rest))
}
