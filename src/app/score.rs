//! Evaluation of pictures in a folder, whoever drew them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::evaluate::{Request, scored};
use super::lines::Line;
use super::{Observer, Usage};
use crate::adapter::{Adapter, MANIFEST};
use crate::base::MINI;
use crate::evaluation::scorer::Wanted;
use crate::evaluation::scores::{self, Evaluation, Group};
use crate::files::check_target;
use crate::images::png::read_parameters;
use crate::images::{self, by_number, pictures_in};
use crate::model::tokenizer::PLACEHOLDER;
use crate::subject;

/// The pictures to score.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// The folder that they are in.
    pub generated: PathBuf,
    /// The folder of the subject's photos.
    pub concept: PathBuf,
    /// A file with a prompt in each line, as `sample` reads it, for each picture by name; `2.png` is before `10.png`.
    pub prompts: Option<PathBuf>,
}

/// Scores the pictures of a folder.
///
/// # Errors
/// [`Usage`] if the request makes no sense, else if a picture cannot be read or scored.
pub fn score(pictures: &Pictures, request: &Request, observer: &mut dyn Observer) -> Result<Evaluation> {
    if let Some(file) = &request.json {
        check_target(file)?;
        scores::check_ours(file)?;
    }
    let request = &Request { metrics: metrics(request, observer)?, ..request.clone() };
    let mut files = pictures_of(&pictures.generated, observer)?;
    files.sort_by(|one, other| by_number(one, other));
    let photos = pictures_of(&pictures.concept, observer)?;
    let photos = photos.iter().map(|path| images::open(path)).collect::<Result<Vec<_>>>()?;
    let prompts = known_prompts(pictures, &files, observer)?;
    if request.metrics.contains(&Wanted::ClipT) && prompts.iter().all(Option::is_none) {
        observer.warn("CLIP-T is left out: no prompts in prompts.json, in the files, or from --prompts");
    }
    let scorer = request.scorer(request.base.as_deref().unwrap_or(MINI))?;
    if scorer.names.0 == MINI && request.clip.is_none() {
        observer.info(
            "Scored by the embedded encoders; for published numbers: --clip openai/clip-vit-base-patch32 --dino \
             facebook/dino-vits16",
        );
    }
    let concept = scorer.concept(&photos, |_| None)?;
    let named = files.iter().zip(prompts).map(|(path, prompt)| (path.as_path(), prompt, Group::Other));
    let evaluation = Evaluation {
        subject: pictures.concept.display().to_string(),
        photos: photos.len(),
        clip: scorer.names.0.clone(),
        dino: scorer.names.1.clone(),
        measured: scored(&scorer, named.collect(), &concept, &pictures.generated, observer)?,
        others: Default::default(),
    };
    if let Some(path) = &request.json {
        evaluation.write_json(path)?;
    }
    Ok(evaluation)
}

/// The metrics that make sense: mini's judge knows nothing but mini's world, so it says nothing of pictures that other
/// encoders are named for, unless mini is named too.
fn metrics(request: &Request, observer: &mut dyn Observer) -> Result<Vec<Wanted>> {
    let named = [&request.clip, &request.dino].into_iter().flatten();
    let judged = request.base.is_some() || named.map(String::as_str).all(|name| name == MINI);
    let kept = |wanted: &Wanted| judged || *wanted != Wanted::Judge;
    let metrics: Vec<Wanted> = request.metrics.iter().copied().filter(kept).collect();
    if metrics.is_empty() {
        bail!(Usage("--metrics judge: name the base whose judge it is, e.g. --base mini".into()));
    }
    if metrics.len() < request.metrics.len() {
        observer.info("The judge is left out: it judges pictures of a base of its own (--base mini)");
    }
    Ok(metrics)
}

/// All pictures of a folder; what is left out is told.
fn pictures_of(folder: &Path, observer: &mut dyn Observer) -> Result<Vec<PathBuf>> {
    for warning in images::list(folder)?.warnings() {
        observer.warn(&warning);
    }
    pictures_in(folder)
}

/// The folder above another, which may be called `.` or `..`.
fn above(folder: &Path) -> Result<PathBuf> {
    let real = || folder.canonicalize().with_context(|| format!("cannot read the folder {}", images::shown(folder)));
    let full = if folder.file_name().is_some() { folder.to_path_buf() } else { real()? };
    let parent = full.parent().unwrap_or(&full);
    Ok(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_path_buf() })
}

/// What stands for the subject in a file of prompts, with the class word that scores go by: that of the adapter whose
/// photos they are, else that of the photos' folder.
fn called(concept: &Path) -> Result<String> {
    let adapter = above(concept)?;
    let class = match adapter.join(MANIFEST).is_file() {
        true => Some(Adapter::open(&adapter)?.manifest.class),
        false => {
            let request = subject::Request { subject: &concept.to_string_lossy(), ..Default::default() };
            subject::identify(&request).ok().map(|(_, class)| class) // a folder may be called by a number
        }
    };
    Ok(class.map_or(PLACEHOLDER.into(), |class| format!("{PLACEHOLDER} {class}")))
}

/// The prompt of each picture, as far as it is known.
fn known_prompts(pictures: &Pictures, files: &[PathBuf], observer: &mut dyn Observer) -> Result<Vec<Option<String>>> {
    let folder = pictures.generated.as_path();
    if let Some(file) = &pictures.prompts {
        let lines = Line::read(file, &called(&pictures.concept)?, observer)?;
        if lines.len() != files.len() {
            let (file, folder) = (file.display(), folder.display());
            bail!("{file} has {} prompts for {} pictures in {folder}", lines.len(), files.len());
        }
        return Ok(lines.into_iter().map(|line| Some(line.prompt)).collect());
    }
    let places = [folder.to_path_buf(), above(folder)?].map(|place| place.join("prompts.json"));
    let listed: serde_json::Value = match places.into_iter().find(|path| path.is_file()) {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let json: serde_json::Value =
                serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
            if !json.is_object() {
                bail!("{} has no prompts by the names of the pictures: {{\"00\": \"a dog\", ...}}", path.display());
            }
            json
        }
        None => serde_json::Value::Null,
    };
    let prompt = |path: &PathBuf| {
        let names = [path.file_stem(), path.file_name()].map(|name| name.unwrap_or_default().to_string_lossy());
        let known = names.iter().find_map(|name| listed[name.as_ref()].as_str());
        if let Some(prompt) = known.filter(|prompt| !prompt.is_empty()) {
            return Ok(Some(prompt.to_string()));
        }
        let written = read_parameters(path)?.map(|written| written.prompt);
        Ok(written.filter(|prompt| !prompt.is_empty()))
    };
    files.iter().map(prompt).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Nobody;

    #[test]
    fn prompts_are_listed_by_names_with_or_without_endings() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let pictures = Pictures { generated: folder.path().into(), concept: folder.path().into(), prompts: None };
        let files = ["a.png", "b.png", "c.png"].map(|name| folder.path().join(name));
        for file in &files {
            image::RgbImage::new(4, 4).save(file)?;
        }
        let list = |text: &str| std::fs::write(folder.path().join("prompts.json"), text);
        list(r#"{"a": "a dog", "b.png": "a cat"}"#)?;
        let known = known_prompts(&pictures, &files, &mut Nobody)?;
        assert_eq!(known, [Some("a dog".to_string()), Some("a cat".to_string()), None]);
        for wrong in [r#"["a dog"]"#, "1", "{"] {
            list(wrong)?;
            let error = format!("{:#}", known_prompts(&pictures, &files, &mut Nobody).unwrap_err());
            assert!(error.contains("prompts.json"), "{wrong}: {error}");
        }
        Ok(())
    }

    #[test]
    fn the_folder_above_is_found_by_any_name() -> Result<()> {
        let here = std::env::current_dir()?;
        assert_eq!(above(Path::new("drawn"))?, Path::new("."));
        assert_eq!(above(Path::new("a/drawn/"))?, Path::new("a"));
        let real = here.canonicalize()?;
        let up = real.parent().context("the root")?;
        assert_eq!(above(Path::new("."))?, up);
        assert_eq!(above(Path::new(".."))?, up.parent().unwrap_or(up));
        Ok(())
    }

    #[test]
    fn lines_are_read_as_sample_reads_them() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("dog2"))?;
        std::fs::write(at("p.txt"), "# mine\n\na {} at the beach --n mud --s 30\na S* cat --d 7\n")?;
        let prompts = Some(at("p.txt"));
        let pictures = Pictures { generated: folder.path().into(), concept: at("dog2"), prompts };
        let known = known_prompts(&pictures, &[at("2.png"), at("10.png")], &mut Nobody)?;
        assert_eq!(known, [Some("a S* dog at the beach".to_string()), Some("a S* cat".to_string())]);
        std::fs::write(at("p.txt"), "a dog --w wide\na cat\n")?;
        let error = known_prompts(&pictures, &[at("2.png"), at("10.png")], &mut Nobody).unwrap_err();
        assert!(error.is::<Usage>() && format!("{error:#}").contains("--w"), "{error:#}");
        Ok(())
    }
}
