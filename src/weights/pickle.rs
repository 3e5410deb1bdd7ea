//! Pickled tensors, as PyTorch writes them. A pickle is a program for a small stack machine; this one only notes what it
//! would build, and builds none of it.
//!
//! What is noted lies side by side in one list and is referred to by number, so that it takes no more room than the file
//! has instructions, however often they refer to each other. (candle's reader copies what is referred to, which a file of a
//! hundred bytes can use to fill any memory.)

mod machine;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::Tensor;
use zip::ZipArchive;

use machine::{Machine, Object};

/// How archives begin, as which PyTorch writes pickles since 2020.
const BEGINNING: &[u8] = b"PK\x03\x04";

/// No dictionary of tensors has longer instructions: those of Stable Diffusion's UNet have a tenth of a megabyte.
const LONGEST: u64 = 4 << 20;

/// Whether a file that starts so may be an archive with a pickle.
pub(super) fn begins(start: &[u8]) -> bool {
    start.starts_with(BEGINNING)
}

/// The tensors of a file by name. Those of a dictionary in a dictionary are called `OUTER.INNER`, one that is in none as the
/// file.
///
/// # Errors
/// If it is no such file, is damaged, or an instruction is none that dictionaries of tensors need.
pub(super) fn tensors(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut archive =
        ZipArchive::new(BufReader::new(File::open(path)?)).context("it is no archive, or not a whole one")?;
    let pickles = archive.file_names().collect::<zip::result::ZipResult<Vec<_>>>()?;
    let pickles: Vec<String> = pickles.into_iter().filter(|name| name.ends_with("data.pkl")).map(Into::into).collect();
    let [pickle] = &pickles[..] else { bail!("there are {} pickles in it, not one", pickles.len()) };
    let mut program = Vec::new();
    archive.by_name(pickle)?.take(LONGEST + 1).read_to_end(&mut program)?;
    ensure!(program.len() as u64 <= LONGEST, "its instructions are longer than those of any dictionary of tensors");
    let mut machine = Machine::default();
    let root = machine.run(&program)?;
    let mut found = BTreeMap::new();
    match &machine.objects[root] {
        Object::Made { by, .. } if machine.is_torchs(*by) => {
            found.insert(path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), root);
        }
        _ => machine.named(root, "", 0, &mut BTreeSet::new(), &mut found),
    }
    let mut stored = Vec::new();
    // the first program for embeddings keeps the numbers of their tokens beside them
    for (name, id) in found.into_iter().filter(|(name, _)| !name.starts_with("string_to_token.")) {
        let place = machine.stored(id).with_context(|| format!("{name} is no tensor that is known here"))?;
        stored.extend(place.map(|place| (name, place)));
    }
    // many tensors may say that they lie in one place, which is read once
    stored.sort_by(|(_, a), (_, b)| a.key.cmp(&b.key));
    let mut room = 4 * std::fs::metadata(path)?.len();
    let folder = pickle.trim_end_matches("data.pkl");
    let mut tensors = BTreeMap::new();
    for together in stored.chunk_by(|(_, a), (_, b)| a.key == b.key) {
        let storage = storage(&mut archive, &format!("{folder}data/{}", together[0].1.key));
        let storage = storage.with_context(|| format!("{} cannot be read", together[0].0))?;
        for (name, place) in together {
            let tensor = place.read(&storage).with_context(|| format!("{name} cannot be read"))?;
            let bytes = (tensor.elem_count() * place.dtype.size_in_bytes()) as u64;
            room = room.checked_sub(bytes).context("its tensors are larger than the file")?;
            tensors.insert(name.clone(), tensor);
        }
    }
    Ok(tensors)
}

/// The bytes that tensors share.
fn storage(archive: &mut ZipArchive<BufReader<File>>, name: &str) -> Result<Vec<u8>> {
    let mut file = archive.by_name(name).context("its values are missing")?;
    ensure!(
        file.compressed_size() == file.size(),
        "its values are compressed, as PyTorch's never are: save it again with torch.save"
    );
    let (size, mut bytes) = (file.size(), Vec::new());
    // one more than there are: the archive compares its checksum when it is asked for what follows the last
    file.by_ref().take(size.saturating_add(1)).read_to_end(&mut bytes).context("its values are damaged")?;
    ensure!(bytes.len() as u64 == size, "its values are damaged: they are {} bytes, not {size}", bytes.len());
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use candle_core::{DType, Device};
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::*;
    use crate::weights::Weights;

    /// A file with that program and storages.
    fn file(program: &[u8], storages: &[(&str, &[f32])]) -> Result<tempfile::NamedTempFile> {
        let mut file = tempfile::NamedTempFile::new()?;
        let mut archive = ZipWriter::new(file.as_file_mut());
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        archive.start_file("it/data.pkl", options)?;
        archive.write_all(program)?;
        for (name, values) in storages {
            archive.start_file(format!("it/data/{name}"), options)?;
            archive.write_all(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>())?;
        }
        archive.finish()?;
        Ok(file)
    }

    fn text(text: &str) -> Vec<u8> {
        [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
    }

    /// The instructions that torch.save writes for a tensor in storage "0".
    fn tensor(offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
        let tuple =
            |numbers: &[u8]| [b"(", &numbers.iter().flat_map(|&n| [b'K', n]).collect::<Vec<_>>()[..], b"t"].concat();
        let storage =
            [b"(", &text("storage")[..], b"ctorch\nFloatStorage\n", &text("0"), &text("cpu"), b"K\x06tQ"].concat();
        let head = b"ctorch._utils\n_rebuild_tensor_v2\n(";
        let hooks = b"\x89ccollections\nOrderedDict\n)RtR";
        [head, &storage[..], b"K", &[offset], &tuple(shape), &tuple(strides), hooks].concat()
    }

    const VALUES: [f32; 6] = [0., 1., 2., 3., 4., 5.];

    fn read(program: &[u8]) -> Result<BTreeMap<String, Tensor>> {
        tensors(file(program, &[("0", &VALUES)])?.path())
    }

    #[test]
    fn tensors_are_found_in_dictionaries_of_all_programs() -> Result<()> {
        let whole = |inside: &[u8]| [b"\x80\x02}q\x00(", inside, b"u."].concat();
        // diffusers' {"<toy>": tensor}; a transposed one; numbers beside them
        let flat = [&text("<toy>")[..], &tensor(1, &[3], &[1]), &text("step"), b"K\x07"].concat();
        let found = read(&whole(&flat))?;
        assert_eq!(found.keys().collect::<Vec<_>>(), ["<toy>"]);
        assert_eq!(found["<toy>"].to_vec1::<f32>()?, [1., 2., 3.]);
        let turned = read(&whole(&[&text("t")[..], &tensor(0, &[3, 2], &[1, 3])].concat()))?;
        assert_eq!(turned["t"].to_vec2::<f32>()?, [[0., 3.], [1., 4.], [2., 5.]]);
        // AUTOMATIC1111's {"string_to_param": {"*": parameter}}
        let parameter =
            [b"ctorch._utils\n_rebuild_parameter\n(", &tensor(0, &[1, 2], &[2, 1])[..], b"\x88NtR"].concat();
        let inner = [&b"}"[..], &text("*"), &parameter, b"s"].concat();
        let webui = [&text("string_to_param")[..], &inner, &text("name"), &text("it")].concat();
        assert_eq!(read(&whole(&webui))?["string_to_param.*"].dims(), [1, 2]);
        // the same in a torch.nn.ParameterDict
        let module = b"ctorch.nn.modules.container\nParameterDict\n)\x81";
        let state = [&b"}"[..], &text("_parameters"), &inner, b"s"].concat();
        let old = [&text("string_to_param")[..], module, &state, b"b"].concat();
        assert_eq!(read(&whole(&old))?.keys().collect::<Vec<_>>(), ["string_to_param.*"]);
        Ok(())
    }

    #[test]
    fn nothing_runs_and_nothing_grows() -> Result<()> {
        let one = |tensor: Vec<u8>| [b"}", &text("t")[..], &tensor, b"s."].concat();
        let evil = [b"}", &text("t")[..], b"cposix\nsystem\n", &text("true"), b"\x85Rs."].concat();
        assert!(read(&evil)?.is_empty());
        // what refers to itself twice, forty times over, is forty entries
        let doubled = [b"}", &text("t")[..], b")q\x00", &b"h\x00h\x00\x86q\x00".repeat(40), b"s."].concat();
        assert!(read(&doubled)?.is_empty());
        let nested = [b"}q\x00", &[&text("a")[..], b"h\x00s"].concat()[..], b"."].concat();
        assert!(read(&nested)?.is_empty());
        for (program, part) in [
            (one(tensor(4, &[3], &[1])), "beyond its values"),
            (one(tensor(0, &[7], &[0])), "larger than its values"),
            (one(tensor(0, &[255, 255, 255], &[1, 1, 1])), "larger than its values"),
            (one(tensor(0, &[3], &[1, 1])), "its shape does not fit"),
            (b"}".to_vec(), "cut short"),
            (b".".to_vec(), "what is not there"),
            (b"X\xff\xff\xff\xff.".to_vec(), "cut short"),
            (b"i.".to_vec(), "0x69"),
            (b"h\x05.".to_vec(), "refer to what is not there"),
        ] {
            let said = read(&program).err().map(|error| format!("{error:#}")).unwrap_or_default();
            assert!(said.contains(part), "{part}: {said}");
        }
        let lost = tensors(file(&one(tensor(0, &[3], &[1])), &[])?.path());
        assert!(lost.is_err_and(|error| format!("{error:#}").contains("its values are missing")));
        // two hundred names of one tensor are more than the file could hold
        let many: Vec<u8> = (0..200).flat_map(|i| [text(&i.to_string()), b"h\x01".to_vec()].concat()).collect();
        let long =
            [&b"ctorch._utils\n_rebuild_tensor_v2\n(("[..], &text("storage"), b"ctorch\nFloatStorage\n"].concat();
        let shape = b"M\x10\x27\x85K\x01\x85\x89NtR"; // 10000 values
        let long = [&long[..], &text("0"), &text("cpu"), b"M\x10\x27tQK\x00", shape].concat();
        let shared = [&long[..], b"q\x01}(", &many, b"u."].concat();
        let said = tensors(file(&shared, &[("0", &[1.; 10_000])])?.path());
        assert!(said.is_err_and(|error| format!("{error:#}").contains("larger than the file")));
        Ok(())
    }

    #[test]
    fn integers_are_read_as_they_are() -> Result<()> {
        let kinds = ["Long", "Int", "Short", "Byte"];
        let (float, alpha) = (b"FloatStorage", text("alpha"));
        let program = [b"}", &alpha[..], &tensor(0, &[1], &[1]), b"s."].concat();
        let at = program.windows(float.len()).position(|bytes| bytes == float).context("the storage")?;
        for kind in kinds {
            let other = format!("{kind}Storage");
            let program = [&program[..at], other.as_bytes(), &program[at + float.len()..]].concat();
            // sixteen, little-endian, in eight bytes
            let file = file(&program, &[("0", &[f32::from_bits(16), 0.])])?;
            let weights = Weights::open_or_unpickle(file.path(), &Device::Cpu)?;
            assert_eq!(weights.any("alpha")?.to_dtype(DType::F32)?.to_vec1::<f32>()?, [16.], "{kind}");
        }
        // {"string_to_token": {"*": tensor}, "string_to_param": {"*": tensor}}
        let inner = [&b"}"[..], &text("*"), &tensor(0, &[1], &[1]), b"s"].concat();
        let both = [b"}(", &text("string_to_token")[..], &inner, &text("string_to_param"), &inner, b"u."].concat();
        assert_eq!(read(&both)?.keys().collect::<Vec<_>>(), ["string_to_param.*"]);
        Ok(())
    }

    #[test]
    fn changed_values_are_refused() -> Result<()> {
        let whole = std::fs::read(
            file(&[b"}", &text("t")[..], &tensor(0, &[6], &[1]), b"s."].concat(), &[("0", &VALUES)])?.path(),
        )?;
        let last = VALUES[5].to_le_bytes();
        let place = whole.windows(4).position(|bytes| bytes == last).context("the last value")?;
        let mut changed = whole.clone();
        changed[place + 1] ^= 1;
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("toy.pt");
        std::fs::write(&path, &whole)?;
        assert!(Weights::open_or_unpickle(&path, &Device::Cpu).is_ok());
        std::fs::write(&path, &changed)?;
        let said =
            Weights::open_or_unpickle(&path, &Device::Cpu).err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(said.contains("toy.pt") && said.contains("t cannot be read: its values are damaged"), "{said}");
        Ok(())
    }

    #[test]
    fn halves_of_files_are_refused() -> Result<()> {
        let whole = std::fs::read(file(b"}.", &[])?.path())?;
        for length in [0, 4, whole.len() / 2, whole.len() - 1] {
            let cut = tempfile::NamedTempFile::new()?;
            std::fs::write(cut.path(), &whole[..length])?;
            assert!(tensors(cut.path()).is_err(), "{length}");
        }
        Ok(())
    }
}
