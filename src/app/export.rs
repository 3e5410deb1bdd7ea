//! Adapters for other programs.

mod merged;
mod whole;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use candle_core::Tensor;

use super::{Interrupted, Machine, Observer, Usage, page, places};
use crate::adapter::formats::lora::Lora;
use crate::adapter::formats::{custom_diffusion, embedding, release};
use crate::adapter::{Adapter, Manifest, serialised};
use crate::base::{Base, Folder};
use crate::files::{Set, check_writable, read_text, stage_folder, sweep_old, write_whole};
use crate::images::png::png_bytes;
use crate::method::MethodName;
use crate::method::eqdiff::{Band, Customisation};
use crate::ops::Precision;

/// What to export, and how.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff export --help`
pub struct Request {
    pub adapter: Option<PathBuf>,
    pub to: Layout,
    /// Of the LoRA; none: 32.
    pub rank: Option<usize>,
    pub name: Option<String>,
    pub base: Option<String>,
    pub out: Option<PathBuf>,
    pub machine: Machine,
}

/// Whose layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// Custom Diffusion weights and embeddings for diffusers
    Diffusers,
    /// A LoRA and an embedding for AUTOMATIC1111, Forge and ComfyUI, and for diffusers too
    Webui,
    /// As the authors' released code keeps it
    Release,
    /// The base's own files with the adapter's keys and values in them, and the embedding
    Merged,
}

impl Layout {
    /// Those that an adapter of that method can have.
    pub fn of(method: MethodName) -> &'static [Self] {
        match method {
            MethodName::Eqdiff | MethodName::CustomDiffusion => {
                &[Self::Diffusers, Self::Webui, Self::Release, Self::Merged]
            }
            MethodName::TextualInversion => &[Self::Diffusers, Self::Webui],
            MethodName::DreamBooth => &[Self::Diffusers, Self::Merged],
        }
    }

    /// As it is typed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Diffusers => "diffusers",
            Self::Webui => "webui",
            Self::Release => "release",
            Self::Merged => "merged",
        }
    }
}

/// The rank of a LoRA unless another is asked for.
const RANK: usize = 32;

/// What the exported folder says of itself.
const DIFFUSERS: &str = include_str!("export/diffusers.md");
const WEBUI: &str = include_str!("export/webui.md");
const RELEASE: &str = include_str!("export/release.md");
const MERGED: &str = include_str!("export/merged.md");
const WHOLE: &str = include_str!("export/whole.md");
const WHOLE_MERGED: &str = include_str!("export/whole_merged.md");
const EMBEDDING: &str = include_str!("export/embedding.md");

/// An adapter on its way out.
struct Export<'a> {
    adapter: &'a Adapter,
    base: &'a Base,
    tensors: BTreeMap<String, Tensor>,
    learned: Customisation,
    /// What files and the token are called.
    name: String,
    rank: usize,
}

/// Files by name.
type Files = Vec<(String, Vec<u8>)>;

/// Exports, and gives the files.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if the adapter or its base cannot be read or the files not written.
pub fn export(request: &Request, observer: &mut dyn Observer) -> Result<Vec<PathBuf>> {
    if request.rank == Some(0) {
        bail!(Usage("--rank: give 1 or more".into()));
    }
    let adapter = Adapter::open(&places::adapter(request.adapter.as_deref())?)?;
    let name = match &request.name {
        Some(name) if is_plain(name) => name.clone(),
        Some(name) => bail!(Usage(format!("--name {name:?}: letters, digits, - and _ only"))),
        None => default_name(&adapter.manifest.subject),
    };
    let out = match &request.out {
        Some(folder) => folder.clone(),
        None => beside(&adapter.folder, request.to.name()),
    };
    let method = adapter.manifest.settings.training.method;
    let whole = method == MethodName::DreamBooth;
    let possible = Layout::of(method);
    if !possible.contains(&request.to) {
        let what =
            if whole { "a DreamBooth adapter is a whole UNet" } else { "a Textual Inversion adapter is one embedding" };
        let ways: Vec<String> = possible.iter().map(|layout| format!("--to {}", layout.name())).collect();
        bail!(Usage(format!("{what}: {}", ways.join(" or "))));
    }
    match request.to {
        Layout::Merged => places::check_unused(&out)?,
        Layout::Diffusers if whole => places::check_unused(&out)?,
        _ => check_writable(&out)?,
    }
    if request.rank.is_some() && (request.to != Layout::Webui || method == MethodName::TextualInversion) {
        observer.warn("--rank has no effect: it is for LoRAs, which only --to webui makes, of tuned keys and values");
    }
    // a whole UNet is the adapter's alone; changes of a base are told from its values, which must not be rounded
    let precision = match (request.machine.precision, whole && request.to == Layout::Diffusers) {
        (given, true) => given,
        (given, false) => {
            if given.is_some() {
                observer
                    .warn("--dtype has no effect: it is for the files of a whole UNet, DreamBooth's --to diffusers");
            }
            Some(Precision::F32)
        }
    };
    // on the CPU whatever else there is: it computes little, and keeps weights in every precision that files may have
    let machine = Machine { device: "cpu".into(), precision, ..request.machine.clone() };
    let base = match &request.base {
        Some(base) => machine.base(base, observer)?,
        None => machine.base_of_adapter(&adapter.manifest.base, observer)?,
    };
    let go_on = |observer: &dyn Observer| if observer.stopped() { bail!(Interrupted) } else { Ok(()) };
    go_on(observer)?;
    // as the base itself: not downloaded at an adapter's word
    let offline = request.machine.offline || request.base.is_none();
    let tensors = adapter.tensors(&base)?;
    if whole {
        let name_of_base = request.base.as_ref().unwrap_or(&adapter.manifest.base);
        let files = Folder::find(name_of_base, offline)?;
        let page = page_of(&name);
        let path = if request.to == Layout::Merged {
            let staged = stage_folder(&out)?;
            let file = format!("{name}-merged.safetensors");
            merged::write(&files, &file, &tensors, staged.path(), &|| go_on(observer))?;
            write_whole(&staged.path().join(page), &explained(WHOLE_MERGED, &name, &adapter.manifest))?;
            staged.place(&out)?.with_context(|| format!("{} is there already", out.display()))?
        } else {
            let text = explained(WHOLE, &name, &adapter.manifest);
            whole::write(&files, tensors, precision.unwrap_or_default(), (&page, &text), &out)?
        };
        observer.info(&format!("Exported: {}", path.display()));
        return Ok(vec![path]);
    }
    let learned = Customisation::from_tensors(&base.unet, &tensors)?;
    if method == MethodName::TextualInversion {
        let vector = learned.concept.of(Band::Original)?;
        let files = vec![
            (embedding::LEARNED.to_string(), embedding::learned(&format!("<{name}>"), &vector)?),
            (format!("{name}.safetensors"), embedding::file(&name, &vector)?),
            (page_of(&name), explained(EMBEDDING, &name, &adapter.manifest)),
        ];
        let paths = written(&files, &page_of(&name), &out)?;
        paths.iter().for_each(|path| observer.info(&format!("Exported: {}", path.display())));
        return Ok(paths);
    }
    let rank = request.rank.unwrap_or(RANK);
    let export = Export { adapter: &adapter, base: &base, tensors, learned, name, rank };
    let page = export.page();
    let paths = match request.to {
        Layout::Diffusers => written(&export.diffusers()?, &page, &out)?,
        Layout::Webui => written(&export.webui(observer)?, &page, &out)?,
        Layout::Release => written(&export.release()?, &page, &out)?,
        Layout::Merged => {
            let name = request.base.as_ref().unwrap_or(&adapter.manifest.base);
            export.merged(&Folder::find(name, offline)?, &out, &|| go_on(observer))?
        }
    };
    if export.learned.has_reference() && request.to != Layout::Release {
        observer.warn(
            "reference attention does not travel, since no other program has it: these files draw what eqdiff sample \
             --no-reference draws, which is less like the subject (docs/interop.md has figures)",
        );
    }
    for path in &paths {
        observer.info(&format!("Exported: {}", path.display()));
    }
    Ok(paths)
}

/// Writes all files or none. Those of an earlier export of that name and layout are replaced, others are not: the
/// title of its `page` says both.
fn written(files: &Files, page: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    sweep_old(folder)?; // what an export that died has left, which finishes its set
    let there = |name: &str| folder.join(name).exists();
    let title = |text: &str| text.lines().next().map(str::to_string);
    let known = read_text(&folder.join(page)).ok().and_then(|text| title(&text));
    let again = files.iter().any(|(name, content)| {
        name == page && known.is_some() && known == std::str::from_utf8(content).ok().and_then(title)
    });
    if let Some((name, _)) = files.iter().find(|(name, _)| !again && there(name)) {
        bail!(Usage(format!("{} is there already: give another --out or --name", folder.join(name).display())));
    }
    let mut set = Set::new(folder);
    for (name, bytes) in files {
        set.add(name, bytes)?;
    }
    set.commit()?;
    Ok(files.iter().map(|(name, _)| folder.join(name)).collect())
}

impl Export<'_> {
    fn diffusers(&self) -> Result<Files> {
        let layers = self.base.unet.attentions();
        let plain = layers.iter().map(|layer| layer.name.as_str()).filter(|name| name.ends_with("attn1"));
        let weights = custom_diffusion::weights(&self.tensors, plain)?;
        let mut files =
            vec![(custom_diffusion::FILE.to_string(), serialised(&weights, &[("format", "pt".to_string())])?)];
        let bands = [(Band::Original, ""), (Band::Low, "-low"), (Band::High, "-high")];
        let there = if self.learned.concept.high.is_some() { &bands[..] } else { &bands[..1] };
        for &(band, ending) in there {
            let name = format!("{}{ending}", self.name);
            files.push((
                format!("{name}.safetensors"),
                embedding::file(&format!("<{name}>"), &self.learned.concept.of(band)?)?,
            ));
        }
        files.push((self.page(), self.explained(DIFFUSERS)));
        Ok(files)
    }

    fn webui(&self, observer: &mut dyn Observer) -> Result<Files> {
        let lora = Lora::new(&self.base.unet, &self.tensors, self.rank)
            .with_context(|| format!("{} cannot become a LoRA", self.adapter.folder.display()))?;
        let error = format!(
            "relative error {:.1} % of the changes in all, {:.1} % in the layer that fits worst",
            100. * lora.error,
            100. * lora.worst
        );
        let advice = if lora.full { "" } else { "; a higher --rank leaves less" };
        observer.info(&format!("LoRA of rank {}: {error}{advice}", lora.rank));
        let manifest = &self.adapter.manifest;
        let lora_name = format!("{}-lora", self.name);
        let summed = self.learned.concept.of(Band::Original)?;
        let mut files = vec![
            (format!("{lora_name}.safetensors"), lora.file(manifest, &lora_name, &self.name)?),
            (format!("{}.safetensors", self.name), embedding::file(&self.name, &summed)?),
        ];
        match page::subject(self.adapter) {
            Ok(subject) => {
                if let Some(photo) = subject.photos.first() {
                    let picture = png_bytes(&photo.square(manifest.side as u32), &[("Software", "eqdiff")])?;
                    files.push((format!("{lora_name}.png"), picture));
                }
            }
            Err(error) => observer.warn(&format!("no preview picture: {error:#}")),
        }
        let text = self.explained(&WEBUI.replace("{rank}", &lora.rank.to_string()).replace("{error}", &error));
        files.push((self.page(), text));
        Ok(files)
    }

    fn release(&self) -> Result<Files> {
        let [weights, token, bands] = release::FILES;
        let pt = [("format", "pt".to_string())];
        let summed = self.learned.concept.of(Band::Original)?;
        let mut files = vec![
            (weights.to_string(), serialised(&release::weights(&self.tensors), &pt)?),
            (token.to_string(), embedding::file(release::TOKEN, &summed)?),
        ];
        if let Some(rows) = release::bands(&self.tensors)? {
            let rows = BTreeMap::from([(release::BANDS.to_string(), rows)]);
            files.push((bands.to_string(), serialised(&rows, &pt)?));
        }
        files.push((self.page(), self.explained(RELEASE)));
        Ok(files)
    }

    fn merged(&self, base: &Folder, out: &Path, go_on: &dyn Fn() -> Result<()>) -> Result<Vec<PathBuf>> {
        let staged = stage_folder(out)?;
        let summed = self.learned.concept.of(Band::Original)?;
        let tuned = self.tensors.iter().filter(|(name, _)| name.contains(".attn2."));
        let tuned = tuned.map(|(name, tensor)| (name.clone(), tensor.clone())).collect();
        merged::write(base, &format!("{}-merged.safetensors", self.name), &tuned, staged.path(), go_on)?;
        let token = format!("{}.safetensors", self.name);
        write_whole(&staged.path().join(token), &embedding::file(&self.name, &summed)?)?;
        write_whole(&staged.path().join(self.page()), &self.explained(MERGED))?;
        let placed = staged.place(out)?;
        Ok(vec![placed.with_context(|| format!("{} is there already", out.display()))?])
    }

    fn page(&self) -> String {
        page_of(&self.name)
    }

    fn explained(&self, text: &str) -> Vec<u8> {
        explained(text, &self.name, &self.adapter.manifest)
    }
}

/// The file that says how to use those of that name.
fn page_of(name: &str) -> String {
    format!("{name}.md")
}

/// A page with what it says of an adapter filled in.
fn explained(text: &str, name: &str, manifest: &Manifest) -> Vec<u8> {
    let text = text.replace("{name}", name).replace("{class}", &manifest.class);
    let text = text.replace("{identifier}", &manifest.settings.dreambooth.identifier);
    let text = text.replace("{steps}", &manifest.settings.sampling.steps.to_string());
    text.replace("{guidance}", &manifest.settings.sampling.guidance.to_string()).into_bytes()
}

/// A name that no prompt has by accident: other programs take it for the subject wherever it stands.
fn default_name(subject: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let word: String = subject.to_lowercase().chars().map(plain).collect();
    format!("eqdiff-{}", word.trim_matches('-'))
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// The folder `FOLDER-ending`.
fn beside(folder: &Path, ending: &str) -> PathBuf {
    let name = folder.file_name().map_or_else(|| "adapter".into(), |name| name.to_string_lossy());
    folder.with_file_name(format!("{name}-{ending}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_rare() {
        for (subject, name) in [("dog", "eqdiff-dog"), ("My Teapot_2!", "eqdiff-my-teapot-2"), ("日本", "eqdiff-")] {
            assert_eq!(default_name(subject), name);
            assert!(is_plain(&default_name(subject)));
        }
        for name in ["", "a b", "../a", "<a>"] {
            assert!(!is_plain(name));
        }
        assert_eq!(beside(Path::new("outputs/dog"), "webui"), Path::new("outputs/dog-webui"));
    }
}
