//! What a page asks for, as the command lines of the program.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Ui;
use super::answer::{Answer, wrong};
use super::journal::Kind;
use super::names::inside;
use super::pictures::{SAMPLES, WITHOUT_ADAPTER};
use super::queue::Asked;
use super::subjects::{SUBJECTS, described, folder_of as folder_of_subject};
use crate::app::draw::Turned;
use crate::app::export::Layout;
use crate::app::places::OUTPUTS;
use crate::files::{numbered, write_whole};
use crate::settings::{PRESETS, SamplerName};

/// Names in `outputs` that are no adapter's.
const TAKEN: [&str; 3] = [SAMPLES, "ui", "class-images"];

/// What a page asks for.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Wish {
    Mask(Mask),
    Train(Train),
    Further { adapter: String, steps: usize, memory: Option<f64>, device: Option<String> },
    Draw(Draw),
    Evaluate { adapter: String, limit: Option<usize>, baseline: bool, device: Option<String> },
    Export { adapter: String, to: String, rank: Option<usize>, name: Option<String> },
}

/// Masks for the photos that have none.
#[derive(Deserialize)]
pub(super) struct Mask {
    subject: String,
    /// None: by colours alone.
    base: Option<String>,
    device: Option<String>,
}

/// A training.
#[derive(Deserialize)]
pub(super) struct Train {
    subject: String,
    base: String,
    preset: String,
    steps: Option<usize>,
    class_images: Option<usize>,
    /// Preview pictures on the way.
    previews: usize,
    crop: bool,
    seed: Option<u64>,
    /// GiB; none: what is free.
    memory: Option<f64>,
    device: Option<String>,
}

/// Pictures.
#[derive(Deserialize)]
pub(super) struct Draw {
    /// None: the base alone.
    adapter: Option<String>,
    base: Option<String>,
    prompts: Vec<String>,
    negative: String,
    sampler: Option<SamplerName>,
    steps: Option<usize>,
    guidance: Option<f64>,
    rescale: Option<f64>,
    count: usize,
    seed: u64,
    size: Option<(usize, usize)>,
    /// A photo of the adapter; none: its first.
    reference: Option<String>,
    /// How strongly what was learnt shows.
    dial: Turned,
    /// Draw the same without the adapter too.
    compare: bool,
    device: Option<String>,
}

/// Arguments as they are collected. All values are joined to their options, so that none is taken for an option.
struct Words(Vec<String>);

impl Words {
    fn of(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn with(mut self, option: &str, value: impl std::fmt::Display) -> Self {
        self.0.push(format!("--{option}={value}"));
        self
    }

    fn maybe(self, option: &str, value: Option<impl std::fmt::Display>) -> Self {
        match value {
            Some(value) => self.with(option, value),
            None => self,
        }
    }

    fn flag(mut self, option: &str, given: bool) -> Self {
        if given {
            self.0.push(format!("--{option}"));
        }
        self
    }
}

impl Wish {
    /// The jobs that fulfil it.
    pub(super) fn jobs(self, ui: &Ui) -> Answer<Vec<Asked>> {
        match self {
            Self::Mask(mask) => Ok(vec![mask.job(ui)?]),
            Self::Train(train) => Ok(vec![train.job(ui)?]),
            Self::Further { adapter, steps, memory, device } => {
                let words =
                    Words(vec!["train".into(), "--resume".into()]).with("out", folder_of(ui, &adapter)?.display());
                let words = words.with("steps", steps).maybe("memory", memory).maybe("device", device);
                Ok(vec![asked(Kind::Train, format!("Train {adapter} on to {steps} steps"), Some(adapter), words)])
            }
            Self::Draw(draw) => draw.jobs(ui),
            Self::Evaluate { adapter, limit, baseline, device } => {
                let words = Words::of("eval").with("adapter", folder_of(ui, &adapter)?.display());
                let words = words.maybe("limit", limit).flag("baseline", baseline).maybe("device", device);
                Ok(vec![asked(Kind::Evaluate, format!("Score {adapter}"), Some(adapter), words)])
            }
            Self::Export { adapter, to, rank, name } => {
                let to = <Layout as clap::ValueEnum>::from_str(&to, false).map_err(wrong)?.name();
                let folder = folder_of(ui, &adapter)?;
                let stem = Path::new(OUTPUTS).join(format!("{adapter}-{to}"));
                let out = (1..).map(|n| numbered(&stem, n)).find(|out| !ui.root.join(out).exists());
                let words = Words(vec!["export".into(), folder.display().to_string()]).with("to", to);
                let words = words.maybe("out", out.map(|out| out.display().to_string())).maybe("rank", rank);
                let words = words.maybe("name", name.filter(|name| !name.is_empty()));
                Ok(vec![asked(Kind::Export, format!("Export {adapter} for {to}"), Some(adapter), words)])
            }
        }
    }
}

fn asked(kind: Kind, title: String, adapter: Option<String>, words: Words) -> Asked {
    Asked { kind, title, adapter, arguments: words.0 }
}

/// An adapter's folder, relative to where commands run.
fn folder_of(ui: &Ui, adapter: &str) -> Answer<PathBuf> {
    inside(&ui.root.join(OUTPUTS), &[adapter])?;
    Ok(Path::new(OUTPUTS).join(adapter))
}

impl Mask {
    fn job(self, ui: &Ui) -> Answer<Asked> {
        let folder = folder_of_subject(ui, &self.subject)?;
        let described = described(ui, &self.subject);
        let photos = described["photos"].as_array().into_iter().flatten();
        let bare = photos.filter(|photo| photo["mask"].is_null() && photo["error"].is_null());
        let files: Vec<&str> = bare.filter_map(|photo| photo["file"].as_str()).collect();
        if files.is_empty() {
            return Err(wrong("all photos have masks: open one to have another proposed for it"));
        }
        let folder = Path::new(SUBJECTS).join(folder.file_name().unwrap_or_default());
        let mut words = Words::of("mask");
        words.0.extend(files.iter().map(|file| folder.join(file).display().to_string()));
        let words = words
            .with("class", described["class"].as_str().unwrap_or_default())
            .with("out", folder.join("masks").display())
            .with("way", if self.base.is_some() { "attention" } else { "plain" })
            .maybe("base", self.base)
            .maybe("device", self.device);
        Ok(asked(Kind::Mask, format!("Propose masks for {}", self.subject), None, words))
    }
}

impl Train {
    fn job(self, ui: &Ui) -> Answer<Asked> {
        folder_of_subject(ui, &self.subject)?;
        let subject = self.subject.as_str();
        if !PRESETS.iter().any(|(name, _)| *name == self.preset) {
            return Err(wrong(format!("there is no preset {:?}", self.preset)));
        }
        if self.base.trim().is_empty() {
            return Err(wrong("name a base"));
        }
        // a name that neither a folder nor a job that waits has
        let stem = Path::new(OUTPUTS).join(subject);
        let name = |n: usize| numbered(&stem, n).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let free = |name: &String| {
            !TAKEN.contains(&name.as_str()) && !ui.root.join(OUTPUTS).join(name).exists() && !ui.queue.makes(name)
        };
        let adapter = (1..).map(name).find(free).unwrap_or_default();
        let previews = match (self.previews, self.steps) {
            (0, _) => Some(0),
            (count, Some(steps)) => Some(steps.div_ceil(count).max(1)),
            (_, None) => None,
        };
        let config = previews.map(|every| -> Answer<PathBuf> {
            let path = ui.folder.join(format!("previews-{every}.toml"));
            write_whole(&path, format!("[training]\npreview_every = {every}\n").as_bytes())?;
            Ok(path)
        });
        let config = config.transpose()?;
        let words = Words::of("train")
            .with("subject", Path::new(SUBJECTS).join(subject).display())
            .with("base", &self.base)
            .with("preset", &self.preset)
            .with("out", Path::new(OUTPUTS).join(&adapter).display())
            .maybe("steps", self.steps)
            .maybe("num-class-images", self.class_images)
            .maybe("seed", self.seed)
            .maybe("memory", self.memory)
            .maybe("device", self.device)
            .maybe("config", config.map(|path| path.display().to_string()));
        let words = if self.crop { words.with("crop", "subject") } else { words };
        Ok(asked(Kind::Train, format!("Train {adapter}"), Some(adapter), words))
    }
}

impl Draw {
    fn jobs(self, ui: &Ui) -> Answer<Vec<Asked>> {
        let prompts: Vec<&str> = self.prompts.iter().map(|prompt| prompt.trim()).filter(|p| !p.is_empty()).collect();
        if prompts.is_empty() {
            return Err(wrong("say what to draw"));
        }
        if !(1..=1000).contains(&self.count) {
            return Err(wrong("draw 1 to 1000 pictures"));
        }
        let words = |folder: &str| {
            let mut words = Words::of("sample").with("out", Path::new(OUTPUTS).join(SAMPLES).join(folder).display());
            for prompt in &prompts {
                words = words.with("prompt", prompt);
            }
            words
                .with("negative", self.negative.trim())
                .with("count", self.count)
                .with("seed", self.seed)
                .maybe(
                    "sampler",
                    self.sampler
                        .and_then(|name| clap::ValueEnum::to_possible_value(&name))
                        .map(|v| v.get_name().to_string()),
                )
                .maybe("steps", self.steps)
                .maybe("guidance", self.guidance)
                .maybe("guidance-rescale", self.rescale)
                .maybe("size", self.size.map(|(width, height)| format!("{width}x{height}")))
                .maybe("device", self.device.as_ref())
        };
        let title = |with: &str| format!("Draw {:?}{with}", prompts.join(" / "));
        let mut jobs = Vec::new();
        if let Some(adapter) = &self.adapter {
            let folder = folder_of(ui, adapter)?;
            let mut words = words(adapter)
                .with("adapter", folder.display())
                .maybe("low", self.dial.low)
                .maybe("high", self.dial.high)
                .maybe("reference-strength", self.dial.reference);
            if let Some(photo) = &self.reference {
                inside(&ui.root.join(&folder), &["photos", photo])?;
                words = words.with("reference", folder.join("photos").join(photo).display());
            }
            jobs.push(asked(Kind::Draw, title(""), Some(adapter.clone()), words));
        }
        if self.compare || self.adapter.is_none() {
            let base = match (&self.adapter, &self.base) {
                (_, Some(base)) => Some(base.clone()),
                (Some(adapter), None) => Some(ui.manifest(adapter)?.base),
                (None, None) => None,
            };
            let words = words(WITHOUT_ADAPTER).flag("no-adapter", true).maybe("base", base);
            jobs.push(asked(Kind::Draw, title(", without the adapter"), None, words));
        }
        Ok(jobs)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::ui::guard::Guard;
    use crate::ui::queue::Queue;

    /// Command lines of everything that a page can ask for.
    pub(crate) fn lines() -> Vec<Vec<String>> {
        let place = tempfile::tempdir().expect("a folder");
        let root = place.path().canonicalize().expect("its path");
        let folder = root.join("outputs/ui");
        for below in ["outputs/ui", "outputs/clock/photos", "subjects/clock"] {
            std::fs::create_dir_all(root.join(below)).expect("a folder");
        }
        image::RgbImage::new(32, 32).save(root.join("subjects/clock/001-a.png")).expect("a photo");
        std::fs::write(root.join("outputs/clock/photos/00.png"), "").expect("a photo");
        let (queue, _) = Queue::open(&root, &folder).expect("a queue");
        let guard = Guard::new(&folder.join("token"), 1, false).expect("a guard");
        let ui = Ui::new(root, folder, queue, guard);
        let train = json!({"kind": "train", "subject": "clock", "base": "mini", "preset": "paper", "steps": 20, "class_images": 4,
            "previews": 3, "crop": true, "seed": 3, "memory": 4.5, "device": "cpu"});
        let bare =
            json!({"kind": "train", "subject": "clock", "base": "-x", "preset": "a", "previews": 0, "crop": false});
        let draw = json!({"kind": "draw", "adapter": "clock", "base": "mini", "prompts": ["--help", "", "S* clock"],
            "negative": "-blurry", "sampler": "dpmpp-2m-karras", "steps": 8, "guidance": 7.5, "rescale": 0.7, "count": 2,
            "seed": 4294967295u64, "size": [128, 64], "reference": "00.png", "dial": {"low": 0.9, "high": 1.5, "reference": 0.4}, "compare": true});
        let free = json!({"kind": "draw", "adapter": "clock", "prompts": ["a"], "negative": "", "count": 1, "seed": 0,
            "dial": {"reference": 0}, "compare": false});
        let wishes = [
            train,
            bare,
            json!({"kind": "mask", "subject": "clock", "base": "mini", "device": "cpu"}),
            json!({"kind": "mask", "subject": "clock"}),
            json!({"kind": "further", "adapter": "clock", "steps": 40, "memory": 2, "device": "cpu"}),
            draw,
            free,
            json!({"kind": "evaluate", "adapter": "clock", "limit": 4, "baseline": true, "device": "cpu"}),
            json!({"kind": "export", "adapter": "clock", "to": "webui", "rank": 8, "name": "my-clock"}),
        ];
        let jobs = |wish| serde_json::from_value::<Wish>(wish).expect("a wish").jobs(&ui).expect("jobs");
        wishes.into_iter().flat_map(jobs).map(|job| job.arguments).collect()
    }

    #[test]
    fn pictures_without_the_adapter_are_drawn_by_its_base() {
        let drawn: Vec<Vec<String>> = lines().into_iter().filter(|line| line[0] == "sample").collect();
        let has = |line: &[String], word: &str| line.iter().any(|own| own == word);
        assert_eq!(drawn.len(), 3);
        assert!(has(&drawn[0], "--adapter=outputs/clock") && has(&drawn[0], "--reference=outputs/clock/photos/00.png"));
        assert!(has(&drawn[1], "--no-adapter") && has(&drawn[1], "--base=mini") && has(&drawn[1], "--prompt=--help"));
        assert!(has(&drawn[1], "--out=outputs/samples/without-adapter"));
        // the base alone has nothing to turn
        let turned = |line: &[String]| {
            line.iter().filter(|word| ["--low", "--high", "--ref"].iter().any(|o| word.starts_with(o))).count()
        };
        assert_eq!(drawn.iter().map(|line| turned(line)).collect::<Vec<_>>(), [4, 0, 1]);
        assert!(has(&drawn[0], "--reference-strength=0.4") && has(&drawn[2], "--reference-strength=0"));
    }
}
