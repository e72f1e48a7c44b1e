//! Seal: a plan and tensor bytes in, one immutable file out. The twin of `restore`.
//!
//! The body is written once, front to back; each chunk is summed while it is in the cache, the header goes in last.
//! **Invariant:** the target name shows a whole, synced, read-only file or what it showed before.

use crate::{
    CHUNK_BYTES, DataKey, EXTENT_BYTES, Error, Extent, HEADER_BYTES, Header, MODEL_BYTES_MAX, NAME_BYTES_MAX,
    OperatorKey, PAGE_BYTES, RANK_MAX, Region, SECTIONS_MAX, Section, SectionKind, TABLE_BYTES_MAX, TENSOR_ALIGN,
    TENSORS_MAX, Tensor, WORD_BYTES_MAX, WRAPPED_KEY_BYTES_MAX, align_up,
    body::{Body, Written},
    encrypt::seal_piece,
    hex,
    table::{Arena, Table, arena_align},
};
use sha2::Digest;
use std::{
    collections::HashSet,
    fs::{File, Permissions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
};
use twox_hash::XxHash3_64;

/// A tensor to seal.
#[derive(Clone, Debug)]
pub struct TensorPlan {
    /// Name, unique.
    pub name: String,
    /// How elements are stored, a word of the caller's.
    pub dtype: String,
    /// How rows and blocks are arranged, a word of the caller's.
    pub layout: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Length of the bytes that will be written.
    pub bytes: u64,
}

/// What to seal.
#[derive(Clone, Debug, Default)]
pub struct SealPlan {
    /// Name of the model, for the header.
    pub model: String,
    /// The machine the weights are laid out for, e.g. `portable`.
    pub target: String,
    /// How the weights are stored, e.g. `native`, `f32`.
    pub weights: String,
    /// Tensors in order of first use.
    pub tensors: Vec<TensorPlan>,
    /// Every section but the weights.
    pub sections: Vec<(SectionKind, Vec<u8>)>,
    /// Encrypts the file, with a key of its own, which lies beside it (`OUT.key`, mode 0400) wrapped by this one.
    pub encrypt: Option<OperatorKey>,
}

/// What was sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// SHA-256 of the whole, hexadecimal.
    pub digest: String,
    /// Size of the file.
    pub bytes: u64,
}

/// Writes beside `out` and renames, mode 0444. `write(i, w)` writes exactly `tensors[i].bytes` bytes; `progress` is told
/// bytes done and bytes in all after each chunk.
///
/// # Errors
/// A plan that cannot be written, a tensor of another length than planned, or I/O (the callback's included).
/// Nothing is left on disk then.
pub fn seal(
    out: &Path,
    plan: SealPlan,
    write: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Sealed, Error> {
    let payloads = plan.sections.into_iter().map(|(kind, bytes)| Payload::known(kind, bytes)).collect();
    let draft = Draft {
        model: plan.model,
        target: plan.target,
        weights: plan.weights,
        tensors: plan.tensors,
        payloads,
        encrypt: plan.encrypt,
    };
    seal_draft(out, &draft, CHUNK_BYTES, write, progress)
}

/// A section's bytes and how the table describes them.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) kind: u32,
    pub(crate) name: String,
    pub(crate) version: u16,
    pub(crate) critical: bool,
    pub(crate) bytes: Vec<u8>,
}

impl Payload {
    pub(crate) fn known(kind: SectionKind, bytes: Vec<u8>) -> Self {
        Self { kind: kind as u32, name: kind.name().into(), version: kind.version(), critical: kind.critical(), bytes }
    }
}

/// A plan whose sections need not be known to this build.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) model: String,
    pub(crate) target: String,
    pub(crate) weights: String,
    pub(crate) tensors: Vec<TensorPlan>,
    pub(crate) payloads: Vec<Payload>,
    pub(crate) encrypt: Option<OperatorKey>,
}

pub(crate) fn seal_draft(
    out: &Path,
    draft: &Draft,
    chunk_bytes: u32,
    write: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Sealed, Error> {
    draft.check()?;
    let (table, json) = draft.table()?;
    let mut temporary = temporary_beside(out)?;
    let io = |source| Error::Io { action: format!("writing {}", out.display()), source };

    let arena = table.sections.last().expect("a draft's table ends with the arena").range();
    let checksums_at = align_up(arena.end, PAGE_BYTES).ok_or_else(too_large)?;
    temporary.as_file_mut().seek(SeekFrom::Start(HEADER_BYTES as u64)).map_err(io)?;
    let key = draft.encrypt.as_ref().map(|_| DataKey::random()).transpose()?;
    let mut body = Body::new(temporary.as_file_mut(), chunk_bytes, checksums_at, key.as_ref(), progress).map_err(io)?;
    body.write_all(&json).map_err(io)?;
    for (section, payload) in table.sections.iter().zip(&draft.payloads) {
        body.pad_to(section.offset).map_err(io)?;
        body.write_all(&payload.bytes).map_err(io)?;
    }
    for (i, tensor) in table.arenas[0].tensors.iter().enumerate() {
        body.pad_to(tensor.offset).map_err(io)?;
        write_tensor(&mut body, i, tensor, write).map_err(io)?;
    }
    body.pad_to(checksums_at).map_err(io)?;
    let Written { sums, mut digest, tags } = body.finish().map_err(io)?;

    let mut sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    digest.update(&sums);
    let mut header = Header {
        model: draft.model.clone(),
        target: draft.target.clone(),
        weights_word: draft.weights.clone(),
        file_bytes: checksums_at + sums.len() as u64,
        chunk_bytes,
        table: Region { offset: HEADER_BYTES as u64, bytes: json.len() as u64 },
        table_sum: XxHash3_64::oneshot(&json),
        checksums: Region { offset: checksums_at, bytes: sums.len() as u64 },
        checksums_sum: XxHash3_64::oneshot(&sums),
        weights: Region { offset: arena.start, bytes: arena.end - arena.start },
        digest: [0; 32],
        tags: None,
    };
    digest.update(header.encode_unsigned());
    header.digest = digest.finalize().into();
    let (mut page, mut wrapped) = (header.encode(), None);
    if let (Some(operator), Some(key)) = (&draft.encrypt, &key) {
        page = end_encrypted(temporary.as_file(), &header, key, &mut sums, tags).map_err(io)?;
        wrapped = Some(operator.wrap(key, &header.digest)?);
    }
    temporary.as_file().write_all_at(&sums, checksums_at).map_err(io)?;
    temporary.as_file().write_all_at(&page, 0).map_err(io)?;
    // Of a snapshot that this one takes the place of, neither is touched before all of this one is on the disk.
    temporary.as_file().sync_all().map_err(io)?;
    wrapped.map_or(Ok(()), |wrapped| publish_key(out, &wrapped))?;
    publish(temporary, out).map_err(io)?;
    Ok(Sealed { digest: hex(&header.digest), bytes: header.file_bytes })
}

/// Encrypts the checksums, writes the tags behind the plain file's end, and gives the first page.
fn end_encrypted(
    file: &File,
    header: &Header,
    key: &DataKey,
    sums: &mut [u8],
    mut tags: Vec<u8>,
) -> io::Result<[u8; HEADER_BYTES]> {
    tags.extend(seal_piece(&key.cipher(), header.chunks(), &header.encode(), sums)?);
    let too_large = || io::Error::other("is larger than 64-bit offsets reach");
    let at =
        Region { offset: align_up(header.file_bytes, PAGE_BYTES).ok_or_else(too_large)?, bytes: tags.len() as u64 };
    file.write_all_at(&tags, at.offset)?;
    Ok(header.encode_encrypted(at))
}

/// The wrapped key beside the snapshot, before it: a snapshot without one would be lost.
fn publish_key(out: &Path, wrapped: &str) -> Result<(), Error> {
    let path = key_path(out);
    let failed = |source| Error::Io { action: format!("writing {}", path.display()), source };
    let mut temporary = temporary_beside(&path)?;
    temporary.write_all(wrapped.as_bytes()).map_err(failed)?;
    temporary.as_file().set_permissions(Permissions::from_mode(0o400)).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    temporary.persist(&path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// Where the wrapped key of a snapshot lies.
pub fn key_path(snapshot: &Path) -> PathBuf {
    let mut name = snapshot.as_os_str().to_owned();
    name.push(".key");
    name.into()
}

/// What lies beside an encrypted snapshot; whether that is a key is said by who unwraps it.
///
/// # Errors
/// There is nothing, or no text; I/O.
pub fn wrapped_key(snapshot: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(key_path(snapshot))?.take(WRAPPED_KEY_BYTES_MAX as u64).read_to_string(&mut text)?;
    Ok(text)
}

impl Draft {
    fn check(&self) -> Result<(), Error> {
        for (field, word, max) in [
            ("model", &self.model, MODEL_BYTES_MAX),
            ("target", &self.target, WORD_BYTES_MAX),
            ("weights", &self.weights, WORD_BYTES_MAX),
        ] {
            check_word(field, word, max)?;
        }
        check_count("sections", self.payloads.len() + 1, SECTIONS_MAX)?;
        check_count("tensors", self.tensors.len(), TENSORS_MAX)?;
        let mut kinds = HashSet::new();
        for payload in &self.payloads {
            if payload.kind == SectionKind::Weights as u32 || !kinds.insert(payload.kind) {
                return Err(Error::plan(
                    format!("section {}", payload.name),
                    "is written by tensors alone, or given twice",
                ));
            }
        }
        let mut names = HashSet::new();
        for tensor in &self.tensors {
            for word in [&tensor.name, &tensor.dtype, &tensor.layout] {
                check_word(&format!("tensor {}", tensor.name), word, NAME_BYTES_MAX)?;
            }
            check_count(&format!("shape of {}", tensor.name), tensor.shape.len(), RANK_MAX)?;
            let elements = tensor.shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
            if elements.is_none() || !names.insert(&tensor.name) {
                return Err(Error::plan(format!("tensor {}", tensor.name), "has its name twice, or too many elements"));
            }
        }
        Ok(())
    }

    /// The table and its JSON. Offsets depend on the table's length, and its length on the digits of the offsets: room
    /// grows by pages until the table fits.
    fn table(&self) -> Result<(Table, Vec<u8>), Error> {
        let mut room = PAGE_BYTES;
        loop {
            let table = self.layout(HEADER_BYTES as u64 + room).ok_or_else(too_large)?;
            let json = table.to_json();
            if json.len() as u64 > TABLE_BYTES_MAX {
                return Err(Error::plan("table", format!("{} bytes, {TABLE_BYTES_MAX} at most", json.len())));
            }
            if json.len() as u64 <= room {
                return Ok((table, json));
            }
            room = align_up(json.len() as u64, PAGE_BYTES).ok_or_else(too_large)?;
        }
    }

    /// Sections from `start` on, then the arena; `None` beyond `u64`.
    fn layout(&self, start: u64) -> Option<Table> {
        let mut at = start;
        let mut sections = Vec::with_capacity(self.payloads.len() + 1);
        for payload in &self.payloads {
            let (name, bytes) = (payload.name.clone(), payload.bytes.len() as u64);
            let Payload { kind, version, critical, .. } = *payload;
            sections.push(Section { kind, name, version, critical, offset: at, bytes });
            at = align_up(at.checked_add(bytes)?, PAGE_BYTES)?;
        }
        // Placed from zero first: the arena's alignment depends on its size.
        let bytes = place(&self.tensors, 0)?.last().map_or(0, |last| last.offset + last.bytes);
        let offset = align_up(at, arena_align(bytes))?;
        let kind = SectionKind::Weights;
        sections.push(Section {
            kind: kind as u32,
            name: kind.name().into(),
            version: kind.version(),
            critical: kind.critical(),
            offset,
            bytes,
        });
        let tensors = place(&self.tensors, offset)?;
        let arena = Arena {
            target: self.target.clone(),
            section: self.payloads.len(),
            extents: extents(offset, bytes),
            tensors,
        };
        Some(Table { sections, arenas: vec![arena] })
    }
}

/// Tensors one behind the other from `at` on.
fn place(plans: &[TensorPlan], mut at: u64) -> Option<Vec<Tensor>> {
    plans
        .iter()
        .map(|plan| {
            let offset = align_up(at, TENSOR_ALIGN)?;
            at = offset.checked_add(plan.bytes)?;
            let TensorPlan { name, dtype, layout, shape, bytes } = plan.clone();
            Some(Tensor { name, dtype, layout, shape, offset, bytes })
        })
        .collect()
}

fn extents(offset: u64, bytes: u64) -> Vec<Extent> {
    let starts = (0..bytes).step_by(EXTENT_BYTES as usize);
    starts.map(|start| Extent { offset: offset + start, bytes: EXTENT_BYTES.min(bytes - start) }).collect()
}

fn check_word(field: &str, word: &str, max: usize) -> Result<(), Error> {
    if word.is_empty() || word.len() > max {
        return Err(Error::plan(field, format!("{} bytes, expected 1 to {max}", word.len())));
    }
    Ok(())
}

fn check_count(field: &str, count: usize, max: usize) -> Result<(), Error> {
    if count > max { Err(Error::plan(field, format!("{count} entries, {max} at most"))) } else { Ok(()) }
}

fn too_large() -> Error {
    Error::plan("file", "is larger than 64-bit offsets reach")
}

/// The directory a file lies in.
fn folder(out: &Path) -> &Path {
    out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Beside the target, for the rename; removed when dropped.
fn temporary_beside(out: &Path) -> Result<tempfile::NamedTempFile, Error> {
    let name = out.file_name().ok_or_else(|| Error::plan("out", format!("{} names no file", out.display())))?;
    let prefix = format!(".{}.", name.to_string_lossy());
    tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".partial")
        .tempfile_in(folder(out))
        .map_err(Error::io(format!("creating a file in {}", folder(out).display())))
}

/// Synced, read-only, renamed, and the name synced too.
fn publish(temporary: tempfile::NamedTempFile, out: &Path) -> io::Result<()> {
    temporary.as_file().set_permissions(Permissions::from_mode(0o444))?;
    temporary.as_file().sync_all()?;
    temporary.persist(out).map_err(|error| error.error)?;
    File::open(folder(out))?.sync_all()
}

/// Lets a tensor's writer write exactly its bytes.
fn write_tensor(
    body: &mut Body<'_>,
    i: usize,
    tensor: &Tensor,
    write: &mut dyn FnMut(usize, &mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut exact = Exact { body, left: tensor.bytes };
    write(i, &mut exact)?;
    match exact.left {
        0 => Ok(()),
        left => {
            Err(io::Error::other(format!("tensor {}: {left} of {} bytes were not written", tensor.name, tensor.bytes)))
        }
    }
}

struct Exact<'a, 'b> {
    body: &'a mut Body<'b>,
    left: u64,
}

impl Write for Exact<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("a tensor's writer wrote more than planned"))?;
        self.body.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
