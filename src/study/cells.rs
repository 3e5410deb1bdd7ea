//! What a study consists of: trainings, and the cells (pictures with their scores) of each. Their names are made of the
//! plan alone, never of what the disk holds: every machine gives the same names to the same things, and whatever a
//! change of the plan does not touch keeps its name.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Serialize;

use super::plan::{MOST_PICTURES, MOST_PROMPTS, Method, NOISES, Plan, Subject, last};
use crate::evaluation::prompts::fill;
use crate::evaluation::scores::Group;
use crate::files::digest;
use crate::method::elite;
use crate::model::tokenizer::PLACEHOLDER;
use crate::settings::{Sampling, Settings};

/// A subject taught to the base by a method with a seed.
#[derive(Clone, Debug)]
pub struct Training<'a> {
    /// Its name, which is that of its folder.
    pub id: String,
    /// The subject.
    pub subject: &'a Subject,
    /// The method.
    pub method: &'a Method,
    /// The seed.
    pub seed: u64,
    /// The method's settings with that seed.
    pub settings: Settings,
    plan: &'a Plan,
}

/// A picture of a training.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell<'a> {
    /// Its name, which is that of its file.
    pub id: String,
    /// The prompt's list.
    pub group: Group,
    /// The prompt's template.
    pub template: &'a str,
    /// The prompt that it is drawn from.
    pub prompt: String,
    /// The prompt with the subject's class word, which scores and true pictures go by.
    pub named: String,
    /// Which of the prompt's pictures, from 0.
    pub picture: usize,
    /// What its noise is drawn from.
    pub seed: u64,
}

/// All that a training depends on, so far as a plan can tell.
#[derive(Serialize)]
struct Depends<'a> {
    base: &'a str,
    dtype: &'a str,
    /// Of what is not trained, which goes by no other setting than this and `sampling`.
    #[serde(skip_serializing_if = "Option::is_none")]
    side: Option<usize>,
    subject: &'a Subject,
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elite: Option<elite::Files>,
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<&'a Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampling: Option<&'a Sampling>,
}

impl Plan {
    /// All trainings, those of a subject together.
    ///
    /// # Errors
    /// Never; the library that writes TOML could.
    pub fn trainings(&self) -> Result<Vec<Training<'_>>> {
        let mut all = Vec::with_capacity(self.subjects.len() * self.methods.len() * self.seeds.len());
        for subject in &self.subjects {
            for method in &self.methods {
                for &seed in &self.seeds {
                    all.push(self.training(subject, method, seed)?);
                }
            }
        }
        Ok(all)
    }

    fn training<'a>(&'a self, subject: &'a Subject, method: &'a Method, seed: u64) -> Result<Training<'a>> {
        let mut settings = method.settings.clone();
        settings.training.seed = seed;
        // where subject, base and ELITE's files lie is another matter on another machine
        let subject_alone = Subject { folder: String::new(), ..subject.clone() };
        let elite = method.elite.clone().map(|files| elite::Files {
            mappers: PathBuf::new(),
            vision: last(&files.vision).into(),
            ..files
        });
        let (base, dtype, preset) = (last(&self.base), &self.dtype, method.preset.as_deref());
        let drawn_only = elite.as_ref().map(|_| &settings);
        let depends = Depends {
            base,
            dtype,
            side: drawn_only.map(|settings| settings.training.side),
            subject: &subject_alone,
            preset,
            elite,
            settings: drawn_only.is_none().then_some(&settings),
            sampling: drawn_only.map(|settings| &settings.sampling),
        };
        let text = toml::to_string(&depends).context("cannot name a training")?;
        let id = format!("{}.{}.{seed}-{}", word(&subject.name), word(&method.name), digest(text.as_bytes(), 4));
        Ok(Training { id, subject, method, seed, settings, plan: self })
    }
}

impl<'a> Training<'a> {
    /// The others of the plan that come to the same adapter, since their methods differ in the drawing alone; of class
    /// images too, which may go by its guidance.
    ///
    /// # Errors
    /// As [`Plan::trainings`].
    pub fn alike(&self) -> Result<Vec<Training<'a>>> {
        let drawn_so = |settings: &Settings| Settings { sampling: self.settings.sampling.clone(), ..settings.clone() };
        let all = self.plan.methods.iter().map(|method| self.plan.training(self.subject, method, self.seed));
        let guidance = |settings: &Settings| (settings.prior.class_images > 0).then(|| settings.class_guidance());
        let alike = |other: &Training| {
            other.id != self.id
                && other.method.elite.is_none()
                && drawn_so(&other.settings) == self.settings
                && guidance(&other.settings) == guidance(&self.settings)
        };
        Ok(all.collect::<Result<Vec<_>>>()?.into_iter().filter(alike).collect())
    }

    /// Its cells: the unstylised prompts, then the stylised ones, all pictures of a prompt together. The noise is the
    /// same for all methods and subjects, another for each training's seed.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'a>> + use<'a> {
        let (plan, subject, training_seed) = (self.plan, self.subject, self.seed);
        let called = match self.method.elite {
            Some(_) => PLACEHOLDER.into(),
            None => self.settings.training.method.called(&subject.class),
        };
        let lists = [(Group::Unstylised, plan.unstylised(subject)), (Group::Stylised, plan.prompts.style.as_slice())];
        let numbered =
            |(group, list): (Group, &'a [String])| list.iter().enumerate().map(move |(i, text)| (group, i, text));
        lists.into_iter().flat_map(numbered).flat_map(move |(group, i, template)| {
            let prompt = fill(template, &called);
            let named = fill(template, &format!("{PLACEHOLDER} {}", subject.class));
            (0..plan.pictures).map(move |picture| {
                let (list, lists_before) = if group == Group::Unstylised { ('u', 0) } else { ('s', 1) };
                let seed = noise(training_seed, lists_before, i, picture);
                let digest = digest(format!("{seed} {prompt}").as_bytes(), 3);
                let id = format!("{list}{i:03}-{picture}-{digest}");
                Cell { id, group, template, prompt: prompt.clone(), named: named.clone(), picture, seed }
            })
        })
    }
}

/// The seed of a picture: no two of a plan share one but by different methods or of different subjects.
fn noise(training_seed: u64, lists_before: usize, prompt: usize, picture: usize) -> u64 {
    let before = (MOST_PROMPTS * lists_before + prompt) * MOST_PICTURES + picture;
    training_seed.wrapping_mul(NOISES).wrapping_add(before as u64)
}

/// A name as a part of a file name.
fn word(name: &str) -> String {
    let sign = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let word: String = name.chars().map(sign).take(40).collect();
    if word.starts_with('-') { format!("x{word}") } else { word }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::ops::Precision;

    fn plan(text: &str) -> Result<Plan> {
        let folder = tempfile::tempdir()?;
        let methods = "[[methods]]\nname = \"A\"\npreset = \"a\"\n[[methods]]\nname = \"F: all\"\npreset = \"f\"\n";
        let file = folder.path().join("plan.toml");
        std::fs::write(&file, format!("title = \"t\"\nsubjects = \"bundled\"\nseeds = [0, 1]\n{text}\n{methods}"))?;
        Plan::read(&file, Precision::F32, true)
    }

    fn names(plan: &Plan) -> Result<Vec<String>> {
        let trainings = plan.trainings()?;
        let of = |training: &Training| {
            training.cells().map(|cell| format!("{}/{}", training.id, cell.id)).collect::<Vec<_>>()
        };
        Ok(trainings.iter().flat_map(of).collect())
    }

    #[test]
    fn names_are_of_the_plan_alone_and_stay() -> Result<()> {
        let first = plan("[prompts]\nlimit = 2")?;
        let all = names(&first)?;
        assert_eq!(all.len(), crate::subject::bundled().len() * 2 * 2 * 4);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
        let plain = |name: &String| name.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c));
        assert!(all.iter().all(plain), "{all:?}");
        // whatever a change does not touch keeps its name
        let kept = |changed: &Plan| -> Result<usize> {
            let names: HashSet<String> = names(changed)?.into_iter().collect();
            Ok(all.iter().filter(|name| names.contains(*name)).count())
        };
        assert_eq!(kept(&plan("pictures = 3\n[prompts]\nlimit = 4")?)?, all.len());
        assert_eq!(kept(&plan("[prompts]\nlimit = 2\n[settings]\ntraining.steps = 9")?)?, 0);
        let mut moved = first.clone();
        moved.subjects.iter_mut().for_each(|subject| subject.folder = format!("/elsewhere/{}", subject.name));
        moved.subjects.reverse();
        moved.base = "/elsewhere/mini".into();
        assert_eq!(kept(&moved)?, all.len());
        let mut other = first.clone();
        other.methods.retain(|method| method.name == "A");
        other.methods[0].settings.rra.time_gap += 1;
        assert_eq!(kept(&other)?, 0);
        // ELITE is not trained
        let elite = |settings: &str| -> Result<Vec<String>> {
            let row = "[[methods]]\nname = \"ELITE\"\nelite = { mappers = \"mappers\" }";
            let plan = plan(&format!("{settings}\n{row}"))?;
            Ok(names(&plan)?.into_iter().filter(|name| name.contains("ELITE")).collect())
        };
        let first = elite("[prompts]\nlimit = 1")?;
        assert_eq!(first.len(), crate::subject::bundled().len() * 2 * 2);
        assert_eq!(elite("[prompts]\nlimit = 1\n[settings]\ntraining.steps = 9\nrra.time_gap = 3")?, first);
        assert!(elite("[prompts]\nlimit = 1\n[settings]\nsampling.steps = 9")? != first);
        Ok(())
    }

    #[test]
    fn only_methods_that_train_alike_are_alike() -> Result<()> {
        let method = |name: &str, settings: &str| format!("[[methods]]\nname = {name:?}\npreset = \"a\"\n{settings}\n");
        // class images are drawn with the guidance of `sampling` where they have none of their own
        let methods = [
            method("matched", "settings.sampling.dreammatcher = true"),
            method("guided", "settings.sampling.guidance = 2.0"),
            method("longer", "settings.training.steps = 7"),
            method("no prior", "settings.prior.class_images = 0"),
            method("no prior, guided", "settings.prior.class_images = 0\nsettings.sampling.guidance = 2.0"),
        ];
        let plan = plan(&methods.concat())?;
        let mut pairs = HashSet::new();
        for training in plan.trainings()? {
            for other in training.alike()? {
                assert_eq!((&other.subject.name, other.seed), (&training.subject.name, training.seed));
                pairs.insert([training.method.name.clone(), other.method.name.clone()]);
            }
        }
        let known = [["A", "matched"], ["no prior", "no prior, guided"]];
        let both_ways = known.into_iter().flat_map(|[one, other]| [[one, other], [other, one]]);
        assert_eq!(pairs, both_ways.map(|pair| pair.map(String::from)).collect());
        Ok(())
    }

    #[test]
    fn the_placeholder_is_alone_where_it_was_learnt_alone() -> Result<()> {
        let plan = plan("[[methods]]\nname = \"TI\"\npreset = \"ti\"")?;
        for training in plan.trainings()? {
            for cell in training.cells() {
                let with_class = fill(cell.template, &format!("{PLACEHOLDER} {}", training.subject.class));
                let alone = fill(cell.template, PLACEHOLDER);
                assert_eq!(cell.prompt, if training.method.name == "TI" { alone } else { with_class.clone() });
                assert_eq!(cell.named, with_class);
            }
        }
        Ok(())
    }

    #[test]
    fn noise_follows_noise() {
        let (prompt, picture) = (MOST_PROMPTS - 1, MOST_PICTURES - 1);
        for seed in [0, 7] {
            assert_eq!(noise(seed, 0, 3, picture) + 1, noise(seed, 0, 4, 0));
            assert_eq!(noise(seed, 0, prompt, picture) + 1, noise(seed, 1, 0, 0));
            assert_eq!(noise(seed, 1, prompt, picture) + 1, noise(seed + 1, 0, 0, 0));
        }
        let most = u64::MAX / NOISES - 1;
        assert!(noise(most, 1, prompt, picture) > noise(most, 0, 0, 0));
    }

    #[test]
    fn methods_and_subjects_share_their_noise_and_seeds_do_not() -> Result<()> {
        let plan = plan("pictures = 2\n[prompts]\nlimit = 3")?;
        let trainings = plan.trainings()?;
        let noise = |training: &Training| training.cells().map(|cell| cell.seed).collect::<Vec<_>>();
        let of_seed = |seed| trainings.iter().filter(move |training| training.seed == seed).map(noise);
        assert!(of_seed(0).all(|seeds| Some(seeds) == of_seed(0).next()));
        let all: HashSet<u64> = [0, 1].into_iter().flat_map(|seed| of_seed(seed).next().unwrap_or_default()).collect();
        assert_eq!(all.len(), 2 * 2 * 6);
        assert!(trainings.iter().all(|training| training.settings.training.seed == training.seed));
        Ok(())
    }
}
