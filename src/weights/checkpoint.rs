//! A checkpoint: tensors by name, in one file or in several.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use super::header::{self, Stored};
use super::source::{self, Source};
use super::{foreign, original};

/// The tensors of a checkpoint, and the files that they lie in.
pub(super) struct Checkpoint {
    /// What it is called in messages.
    pub name: String,
    files: Arc<Vec<(String, Source)>>,
    tensors: BTreeMap<String, (usize, Stored)>,
}

/// Which shard each tensor is in.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// One file.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        if let Some(what) = foreign::by_name(path) {
            bail!("{name} is {what}");
        }
        let source = Source::open(path).with_context(|| format!("cannot open {name}"))?;
        Self::of(name, source)
    }

    /// One file that `source` has.
    pub(super) fn of(name: String, source: Source) -> Result<Self> {
        let tensors = header::read(&source).with_context(|| format!("the file {name} cannot be used"))?;
        let tensors = tensors.into_iter().map(|(key, stored)| (key, (0, stored))).collect();
        Ok(Self { files: Arc::new(vec![(name.clone(), source)]), name, tensors })
    }

    /// Several files. `index` says which tensor is in which, and `find` where a file of that name lies.
    pub(super) fn sharded(index: &Path, find: impl Fn(&str) -> Result<PathBuf>) -> Result<Self> {
        let name = index.display().to_string();
        let context = || format!("the index {name} cannot be used");
        let Index { weight_map } = serde_json::from_str(&source::text(index)?).with_context(context)?;
        let mut by_shard = BTreeMap::<&str, Vec<&str>>::new();
        for (tensor, shard) in &weight_map {
            by_shard.entry(shard).or_default().push(tensor);
        }
        let (mut files, mut tensors) = (Vec::new(), BTreeMap::new());
        for (i, (shard, names)) in by_shard.into_iter().enumerate() {
            // an index from somebody else does not choose what is read outside its folder
            let plain = Path::new(shard).file_name().is_some_and(|name| name == shard) && !shard.contains(['/', '\\']);
            ensure!(plain, "{name} has a shard called {shard:?}, which is no name of a file beside it");
            let mut part =
                find(shard).and_then(|path| Self::open(&path)).with_context(|| format!("a shard of {name}"))?;
            for tensor in names {
                let Some((_, stored)) = part.tensors.remove(tensor) else {
                    bail!("{tensor} should be in {} by {name}, but is not", part.name);
                };
                tensors.insert(tensor.to_string(), (i, stored));
            }
            let files_of_part = Arc::into_inner(part.files).unwrap_or_default();
            files.extend(files_of_part);
        }
        Ok(Self { name, files: Arc::new(files), tensors })
    }

    /// Nothing.
    pub(super) fn empty(name: &str) -> Self {
        Self { name: name.to_string(), files: Arc::default(), tensors: BTreeMap::new() }
    }

    /// A model out of a single file for all of Stable Diffusion, its tensors under today's names.
    pub(super) fn part(&self, part: original::Part) -> Result<Self> {
        let context = || format!("the file {} cannot be the base", self.name);
        let names: Vec<&str> = self.tensors.keys().map(String::as_str).collect();
        original::refuse_others(&names, |name| self.get(name).map(|(_, s)| s.shape.as_slice()))
            .with_context(context)?;
        let renamed = part.names(&names).into_iter();
        let tensors = renamed.map(|(now, then)| (now, self.tensors[then].clone())).collect();
        Ok(Self { name: self.name.clone(), files: Arc::clone(&self.files), tensors })
    }

    /// The tensor of that name, and the file that it is in.
    pub(super) fn get(&self, name: &str) -> Option<(&(String, Source), &Stored)> {
        self.tensors.get(name).map(|(file, stored)| (&self.files[*file], stored))
    }

    /// All names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether a tensor's name begins so.
    pub(super) fn has_below(&self, prefix: &str) -> bool {
        self.tensors.range(prefix.to_string()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
    }
}
