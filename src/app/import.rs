//! Adapters of other programs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;

use super::places::{LAST_ADAPTER, OUTPUTS, check_unused, remember};
use super::train::{keep_photos, lasting_name};
use super::{Machine, Observer, Usage};
use crate::adapter::formats::read::{Found, read};
use crate::adapter::{Manifest, save};
use crate::base::{Base, MINI};
use crate::files::{Set, stage_folder};
use crate::method::MethodName;
use crate::method::eqdiff::{ConceptEmbedding, Customisation};
use crate::model::tokenizer::PLACEHOLDER;
use crate::settings::{Layers, Settings};
use crate::subject::{self, Subject};
use crate::weights::{Lora, Part, with_loras};

/// What to import.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff import --help`
pub struct Request {
    pub files: Vec<PathBuf>,
    pub subject: Option<String>,
    pub class: Option<String>,
    pub base: Option<String>,
    pub out: Option<PathBuf>,
    pub machine: Machine,
}

/// Imports, and gives the adapter's folder.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if a file cannot be used or the adapter not be written.
pub fn import(request: &Request, observer: &mut dyn Observer) -> Result<PathBuf> {
    let class = request.class.as_deref().map(str::trim);
    if class == Some("") {
        bail!(Usage("--class: give the ordinary noun for the subject, e.g. dog".into()));
    }
    let subject = match &request.subject {
        Some(name) => {
            // nothing is trained here: where a photo has no mask, all of it is the subject
            let wanted = subject::Request { subject: name, class, whole: true, ..Default::default() };
            Some(subject::find(&wanted)?)
        }
        None => None,
    };
    let (name, class) = match (&subject, class) {
        (Some(subject), _) => (subject.name.clone(), subject.class.clone()),
        (None, Some(class)) => {
            let name =
                subject::name(class).ok_or_else(|| Usage(format!("--class: no name can be made of {class:?}")))?;
            (name, class.to_string())
        }
        (None, None) => bail!(Usage("give the class word, e.g. --class dog, or the --subject with its photos".into())),
    };
    let out = request.out.clone().unwrap_or_else(|| Path::new(OUTPUTS).join(format!("{name}-imported")));
    check_unused(&out)?;
    let base_name = request.base.as_deref().unwrap_or(MINI);
    let base = request.machine.base(base_name, observer)?;
    let (tensors, loras) = gathered(&request.files, &base)?;
    let has_reference = tensors.keys().any(|name| name.contains(".processor."));
    if has_reference && subject.is_none() {
        bail!(Usage("--subject: reference attention looks at a photo of the subject: name it, or its folder".into()));
    }
    let mut layers = Layers::new()?;
    if let Some(toml) = Base::defaults(base_name, request.machine.offline)? {
        layers = layers.over(&toml, &format!("eqdiff.toml of the base {base_name}"))?;
    }
    // an embedding alone is what Textual Inversion learns, and prompts say it without the class word
    if tensors.len() == 1 && loras.is_empty() {
        layers = layers.preset("ti")?;
    }
    let decoupled = tensors.contains_key(ConceptEmbedding::HIGH);
    let parts = format!("[fdte]\nenabled = {decoupled}\n[rra]\nenabled = {has_reference}\n");
    let settings = layers.over(&parts, "the imported files")?.settings()?;
    let files: Vec<String> = request.files.iter().map(|file| file.display().to_string()).collect();
    let tensors =
        completed(tensors, &base, &settings).with_context(|| format!("{} cannot be imported", files.join(", ")))?;
    let tensors = changed(tensors, &loras)?;
    let manifest = Manifest {
        version: env!("CARGO_PKG_VERSION").into(),
        placeholder: PLACEHOLDER.into(),
        subject: name,
        class,
        photos: subject.as_ref().map(Subject::digest).unwrap_or_default(),
        base: lasting_name(base_name),
        fingerprint: base.fingerprint.clone(),
        side: base.side(),
        steps: 0,
        dtype: base.precision.to_string(),
        imported: files,
        preset: String::new(),
        class_images: None,
        settings,
    };
    manifest.check().map_err(|error| Usage(format!("{error:#}")))?;
    let staged = stage_folder(&out)?;
    if let Some(subject) = &subject {
        keep_photos(subject, staged.path())?;
    }
    let mut set = Set::new(staged.path());
    save(&mut set, &manifest, &tensors)?;
    set.commit()?;
    let folder = staged.place(&out)?.with_context(|| format!("{} is there already", out.display()))?;
    remember(LAST_ADAPTER, &folder, observer);
    observer.info(&format!("Adapter: {}", folder.display()));
    Ok(folder)
}

/// The tensors of all files under an adapter's names, on the base's device, and the LoRAs among them. Where bands are given,
/// they are the embedding.
fn gathered(files: &[PathBuf], base: &Base) -> Result<(BTreeMap<String, Tensor>, Vec<Lora>)> {
    let (mut tensors, mut loras, mut embedding, mut bands) = (BTreeMap::new(), Vec::new(), None, None);
    for file in files {
        let twice =
            || format!("{}: an earlier file holds the same kind, and an adapter has one of each", file.display());
        match read(file, &base.device)? {
            Found::Weights(weights) => {
                if weights.into_iter().any(|(name, tensor)| tensors.insert(name, tensor).is_some()) {
                    bail!(twice());
                }
            }
            Found::Embedding(vector) => {
                if embedding.replace(vector).is_some() {
                    bail!(twice());
                }
            }
            Found::Lora(lora) => loras.push(lora),
            Found::Bands(pair) => {
                if bands.replace(pair).is_some() {
                    bail!(twice());
                }
            }
        }
    }
    match (bands, embedding) {
        (Some([high, low]), _) => {
            tensors.insert(ConceptEmbedding::HIGH.into(), high);
            tensors.insert(ConceptEmbedding::LOW.into(), low);
        }
        (None, Some(vector)) => {
            tensors.insert(ConceptEmbedding::LOW.into(), vector);
        }
        (None, None) => {
            bail!(Usage("give the file of the embedding too, which stands for the subject in prompts".into()))
        }
    }
    Ok((tensors, loras))
}

/// An adapter's tensors with the changes of LoRAs.
fn changed(tensors: BTreeMap<String, Tensor>, loras: &[Lora]) -> Result<BTreeMap<String, Tensor>> {
    for lora in loras {
        let keeps = |part: Part, name: &str| {
            part == Part::Unet && ["attn2_to_k", "attn2_to_v"].iter().any(|ending| name.ends_with(ending))
        };
        if let Some((_, name)) = lora.changed().find(|(part, name)| !keeps(*part, name)) {
            bail!(
                "{}: an adapter has no place for {name}, only for keys and values of cross-attention: draw with it by \
                 eqdiff sample --lora",
                lora.file
            );
        }
        let names = tensors.keys().cloned().collect();
        lora.check(&[(Part::Unet, names)])?;
    }
    Ok(with_loras(tensors, Part::Unet, loras)?)
}

/// All tensors that an adapter of `settings` has: those given, and the base's own keys and values where none are, if
/// its method has any.
fn completed(given: BTreeMap<String, Tensor>, base: &Base, settings: &Settings) -> Result<BTreeMap<String, Tensor>> {
    let start = base.text.token_embedding(0)?;
    let mut all = match settings.training.method {
        MethodName::TextualInversion => BTreeMap::from([(ConceptEmbedding::LOW.to_string(), start)]),
        _ => Customisation::initial(&base.unet, &start, settings.fdte.enabled, settings.rra.enabled)?,
    };
    if let Some(name) = all.keys().find(|name| name.contains(".processor.") && !given.contains_key(*name)) {
        bail!("the reference attention is incomplete: there is no {name}");
    }
    for (name, tensor) in given {
        match all.get_mut(&name) {
            None => bail!("the base {} has no place for {name}", base.name),
            Some(own) if own.dims() != tensor.dims() => {
                bail!(
                    "{name} has shape {:?}, but {:?} in the base {}: was it made for another one? Name that with --base",
                    tensor.dims(),
                    own.dims(),
                    base.name
                )
            }
            Some(own) => *own = tensor,
        }
    }
    Ok(all)
}
