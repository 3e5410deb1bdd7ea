//! Evaluation of pictures in a folder, whoever drew them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::Observer;
use super::evaluate::{Request, scored};
use crate::base::MINI;
use crate::evaluation::prompts;
use crate::evaluation::scorer::Wanted;
use crate::evaluation::scores::{self, Evaluation, Group};
use crate::files::check_target;
use crate::images::png::read_parameters;
use crate::images::{self, pictures_in};

/// The pictures to score.
#[derive(Clone, Debug)]
pub struct Pictures {
    /// The folder that they are in.
    pub generated: PathBuf,
    /// The folder of the subject's photos.
    pub concept: PathBuf,
    /// A file with a prompt in each line, for each picture by name.
    pub prompts: Option<PathBuf>,
}

/// Scores the pictures of a folder.
///
/// # Errors
/// If one cannot be read or scored.
pub fn score(pictures: &Pictures, request: &Request, observer: &mut dyn Observer) -> Result<Evaluation> {
    if let Some(file) = &request.json {
        check_target(file)?;
        scores::check_ours(file)?;
    }
    let files = pictures_of(&pictures.generated, observer)?;
    let photos = pictures_of(&pictures.concept, observer)?;
    let photos = photos.iter().map(|path| images::open(path)).collect::<Result<Vec<_>>>()?;
    let prompts = known_prompts(pictures, &files)?;
    if request.metrics.contains(&Wanted::ClipT) && prompts.iter().all(Option::is_none) {
        observer.warn("CLIP-T is left out: no prompts in prompts.json, in the files, or from --prompts");
    }
    let scorer = request.scorer(MINI)?;
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

/// All pictures of a folder; what is left out is told.
fn pictures_of(folder: &Path, observer: &mut dyn Observer) -> Result<Vec<PathBuf>> {
    for warning in images::list(folder)?.warnings() {
        observer.warn(&warning);
    }
    pictures_in(folder)
}

/// The prompt of each picture, as far as it is known.
fn known_prompts(pictures: &Pictures, files: &[PathBuf]) -> Result<Vec<Option<String>>> {
    let folder = pictures.generated.as_path();
    if let Some(file) = &pictures.prompts {
        let lines = prompts::read_file(file)?;
        if lines.len() != files.len() {
            let (file, folder) = (file.display(), folder.display());
            bail!("{file} has {} prompts for {} pictures in {folder}", lines.len(), files.len());
        }
        return Ok(lines.into_iter().map(Some).collect());
    }
    let places = [Some(folder), folder.parent()].into_iter().flatten().map(|place| place.join("prompts.json"));
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
        let known = known_prompts(&pictures, &files)?;
        assert_eq!(known, [Some("a dog".to_string()), Some("a cat".to_string()), None]);
        for wrong in [r#"["a dog"]"#, "1", "{"] {
            list(wrong)?;
            let error = format!("{:#}", known_prompts(&pictures, &files).unwrap_err());
            assert!(error.contains("prompts.json"), "{wrong}: {error}");
        }
        Ok(())
    }
}
