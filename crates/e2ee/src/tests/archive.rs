//! Archives: what is written is read, and nothing else is.
//!
//! **Invariant**: see [`super`].

use crate::{
    ARCHIVE_HEADER_BYTES, ARCHIVE_SEGMENT_BYTES, ArchiveError, ArchiveKey, ArchiveSealer, KdfParams, MAX_RECORD_BYTES,
};

const PASSPHRASE: &str = "a passphrase of some length";

fn cheap() -> KdfParams {
    KdfParams { memory_kib: 19 * 1024, iterations: 2, ..KdfParams::generate() }
}

fn sealed(records: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut sealer = ArchiveSealer::begin(PASSPHRASE, &cheap(), &mut file).unwrap();
    for record in records {
        sealer.seal(record, &mut file).unwrap();
    }
    sealer.finish(&mut file).unwrap();
    file
}

/// The records of a file, or why it is refused.
fn opened(file: &[u8], passphrase: &str) -> Result<Vec<Vec<u8>>, ArchiveError> {
    let (header, segments) = file.split_first_chunk::<ARCHIVE_HEADER_BYTES>().ok_or(ArchiveError::NotOne)?;
    opened_with(&ArchiveKey::derive(passphrase, header)?, segments)
}

fn opened_with(key: &ArchiveKey, mut segments: &[u8]) -> Result<Vec<Vec<u8>>, ArchiveError> {
    let mut opener = key.opener();
    let mut records = Vec::new();
    loop {
        let (segment, rest) = segments.split_at(segments.len().min(ARCHIVE_SEGMENT_BYTES));
        opener.open(segment, rest.is_empty())?;
        while let Some(record) = opener.record()? {
            records.push(record.to_vec());
        }
        if rest.is_empty() {
            return opener.finish().map(|()| records);
        }
        segments = rest;
    }
}

fn key_of(file: &[u8]) -> (ArchiveKey, &[u8]) {
    let (header, segments) = file.split_first_chunk::<ARCHIVE_HEADER_BYTES>().unwrap();
    (ArchiveKey::derive(PASSPHRASE, header).unwrap(), segments)
}

fn record(number: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| number.wrapping_add(u8::try_from(at % 251).unwrap())).collect()
}

#[test]
fn records_of_every_length_come_back_in_their_order() {
    let plain = ARCHIVE_SEGMENT_BYTES - 16;
    let edges = [plain - 5, plain - 4, plain - 3, plain, plain + 1, 2 * plain - 4, MAX_RECORD_BYTES];
    for lengths in [vec![], vec![0], vec![0, 1, 2], vec![plain - 4], vec![2 * plain - 4], edges.to_vec()] {
        let records: Vec<Vec<u8>> = (1..).zip(&lengths).map(|(number, length)| record(number, *length)).collect();
        assert_eq!(opened(&sealed(&records), PASSPHRASE).unwrap(), records, "{lengths:?}");
    }
}

#[test]
fn an_archive_opens_with_its_passphrase_alone() {
    let file = sealed(&[record(1, 100)]);
    assert!(matches!(opened(&file, "another one"), Err(ArchiveError::WrongPassphrase)));
    assert!(matches!(opened(&file, ""), Err(ArchiveError::Passphrase)));
    assert!(matches!(opened(&file, &"x".repeat(1025)), Err(ArchiveError::Passphrase)));
}

#[test]
fn a_changed_byte_is_found_wherever_it_is() {
    // Header: every byte. It costs a key each time, so the segments below share one.
    let file = sealed(&[record(1, 40)]);
    for position in 0..ARCHIVE_HEADER_BYTES {
        let mut altered = file.clone();
        altered[position] ^= 1;
        assert!(opened(&altered, PASSPHRASE).is_err(), "byte {position}");
    }
    let file = sealed(&[record(1, 40), record(2, 3 * ARCHIVE_SEGMENT_BYTES)]);
    let (key, segments) = key_of(&file);
    let borders = (0..4).flat_map(|segment| {
        let start = segment * ARCHIVE_SEGMENT_BYTES;
        [start, start + 1, start + 3000, start + ARCHIVE_SEGMENT_BYTES - 17, start + ARCHIVE_SEGMENT_BYTES - 1]
    });
    for position in borders.filter(|position| *position < segments.len()).chain([segments.len() - 1]) {
        let mut altered = segments.to_vec();
        altered[position] ^= 0x80;
        assert!(opened_with(&key, &altered).is_err(), "byte {position}");
    }
    assert!(opened_with(&key, segments).is_ok());
}

#[test]
fn an_archive_that_ends_early_or_goes_on_is_refused() {
    // The record ends with the second segment, so that what is cut off behind it would not be missed by length.
    let plain = ARCHIVE_SEGMENT_BYTES - 16;
    let file = sealed(&[record(1, 2 * plain - 4), record(2, plain)]);
    let (key, segments) = key_of(&file);
    let at = ARCHIVE_SEGMENT_BYTES;
    for length in [0, 1, 15, 16, at - 1, at, at + 1, 2 * at - 1, 2 * at, 2 * at + 16, 3 * at, segments.len() - 1] {
        assert!(opened_with(&key, &segments[..length]).is_err(), "cut to {length}");
    }
    for more in [&[0][..], &[0; 16], &segments[segments.len() - 20..], segments] {
        assert!(opened_with(&key, &[segments, more].concat()).is_err(), "{} bytes more", more.len());
    }
}

#[test]
fn segments_that_are_moved_repeated_left_out_or_of_another_archive_are_refused() {
    let plain = ARCHIVE_SEGMENT_BYTES - 16;
    let records: Vec<Vec<u8>> = (1..5).map(|number| record(number, plain - 4)).collect();
    let (file, other) = (sealed(&records), sealed(&records));
    let ((key, segments), (_, foreign)) = (key_of(&file), key_of(&other));
    let parts: Vec<&[u8]> = segments.chunks(ARCHIVE_SEGMENT_BYTES).collect();
    let foreign: Vec<&[u8]> = foreign.chunks(ARCHIVE_SEGMENT_BYTES).collect();
    assert_eq!((parts.len(), opened_with(&key, &parts.concat()).unwrap().len()), (4, 4));
    let [a, b, c, d] = parts[..] else { panic!() };
    for wrong in [
        vec![b, a, c, d],
        vec![a, c, b, d],
        vec![a, b, d],
        vec![a, a, b, c, d],
        vec![a, b, c],
        vec![d],
        vec![a, foreign[1], c, d],
        vec![a, b, c, foreign[3]],
    ] {
        assert!(opened_with(&key, &wrong.concat()).is_err());
    }
}

#[test]
fn a_hostile_header_is_refused_before_it_costs_anything() {
    let mut file = sealed(&[]);
    // memory: 4 GiB
    file[37..41].copy_from_slice(&u32::MAX.to_be_bytes());
    assert!(matches!(opened(&file, PASSPHRASE), Err(ArchiveError::Parameters(_))));
    let mut file = sealed(&[]);
    file[20] = 2;
    assert!(matches!(opened(&file, PASSPHRASE), Err(ArchiveError::Version(2))));
    file[0] = b'f';
    assert!(matches!(opened(&file, PASSPHRASE), Err(ArchiveError::NotOne)));
}

#[test]
fn a_record_that_is_too_long_is_not_written() {
    let mut file = Vec::new();
    let mut sealer = ArchiveSealer::begin(PASSPHRASE, &cheap(), &mut file).unwrap();
    let refused = sealer.seal(&vec![0; MAX_RECORD_BYTES + 1], &mut file);
    assert!(matches!(refused, Err(ArchiveError::TooLong(_))));
    sealer.seal(b"still works", &mut file).unwrap();
    sealer.finish(&mut file).unwrap();
    assert_eq!(opened(&file, PASSPHRASE).unwrap(), [b"still works"]);
}

#[test]
fn two_archives_of_the_same_have_nothing_in_common() {
    let (one, two) = (sealed(&[record(1, 64)]), sealed(&[record(1, 64)]));
    assert_eq!(one.len(), two.len());
    assert_ne!(one[ARCHIVE_HEADER_BYTES..], two[ARCHIVE_HEADER_BYTES..]);
    assert!(!one.windows(16).any(|part| part == &record(1, 64)[..16]));
}
