//! Means of a study and how sure they are: over subjects, which is what a method has to serve, and over the seeds of
//! their trainings.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::Rng;

use super::ledger::Entry;
use super::quantity::{COUNT, Quantity};
use crate::evaluation::scores::Group;
use crate::rng;

/// What is known of a quantity.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    sum: f64,
    count: usize,
    /// The same for the same prompts and pictures, in whatever order they come.
    pictures: u64,
}

/// What is known of each quantity.
#[derive(Clone, Copy, Debug, Default)]
struct Sums([Sum; COUNT]);

impl Sums {
    fn add(&mut self, entry: &Entry) {
        let mut hasher = DefaultHasher::new();
        (&entry.prompt, entry.picture).hash(&mut hasher);
        let picture = hasher.finish();
        for quantity in Quantity::scores().chain(Quantity::findings()) {
            if let Some(value) = quantity.of(entry) {
                let Sum { sum, count, pictures } = &mut self.0[quantity.index()];
                *sum += value;
                *count += 1;
                *pictures = pictures.wrapping_add(picture);
            }
        }
    }

    fn of(&self, quantity: Quantity) -> Sum {
        self.0[quantity.index()]
    }

    fn mean(&self, quantity: Quantity) -> Option<f64> {
        let Sum { sum, count, .. } = self.of(quantity);
        (count > 0).then(|| sum / count as f64)
    }
}

/// What is known of the trainings of a method with a list of prompts: subject and seed.
type Trainings = BTreeMap<(String, u64), Sums>;

/// Everything that tables and charts are made of. It grows with trainings and prompts, not with pictures.
pub struct Statistics {
    /// Whether the study is of one subject, so that its seeds are what can be drawn anew.
    of_one: bool,
    trainings: BTreeMap<(String, Group), Trainings>,
    prompts: BTreeMap<(Group, String), BTreeMap<String, Sums>>,
}

/// A mean and how sure it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Mean over subjects of the mean over their seeds of the mean over pictures.
    pub mean: f64,
    /// The interval that 95 % of the means lie in when subjects, or the seeds of the only one, are drawn anew from
    /// those that there are; none where there are too few to draw from.
    pub interval: Option<[f64; 2]>,
    /// How many subjects there are.
    pub subjects: usize,
}

/// What a difference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It is surely below 0.
    Less,
    /// It may be none.
    Unsure,
    /// It is surely above 0.
    More,
}

impl Estimate {
    /// On which side of 0 a difference surely is.
    pub fn side(&self) -> Side {
        match self.interval {
            Some([_, high]) if high < 0. => Side::Less,
            Some([low, _]) if low > 0. => Side::More,
            _ => Side::Unsure,
        }
    }
}

impl Statistics {
    /// Of nothing yet, in a study of so many subjects.
    pub fn new(subjects: usize) -> Self {
        Self { of_one: subjects == 1, trainings: BTreeMap::new(), prompts: BTreeMap::new() }
    }

    /// Takes a cell in.
    pub fn add(&mut self, entry: &Entry) {
        let trainings = self.trainings.entry((entry.method.clone(), entry.group)).or_default();
        trainings.entry((entry.subject.clone(), entry.seed)).or_default().add(entry);
        let methods = self.prompts.entry((entry.group, entry.prompt.clone())).or_default();
        methods.entry(entry.method.clone()).or_default().add(entry);
    }

    /// Whether anything is known of a list of prompts.
    pub fn has(&self, group: Group) -> bool {
        self.trainings.keys().any(|(_, known)| *known == group)
    }

    /// Whether anything has a quantity.
    pub fn has_any(&self, quantity: Quantity) -> bool {
        self.trainings.values().flatten().any(|(_, sums)| sums.of(quantity).count > 0)
    }

    /// How many pictures of a method have a quantity.
    pub fn pictures(&self, method: &str, group: Group, quantity: Quantity) -> usize {
        self.of(method, group).into_iter().flatten().map(|(_, sums)| sums.of(quantity).count).sum()
    }

    /// Whether those of the methods that have pictures with a quantity have the same ones, of the same trainings.
    pub fn comparable(&self, methods: &[&str], group: Group, quantity: Quantity) -> bool {
        let pictures = |trainings: &Trainings| -> Vec<_> {
            let known = trainings.iter().map(|(training, sums)| (training.clone(), sums.of(quantity)));
            known.filter(|(_, sum)| sum.count > 0).map(|(training, sum)| (training, sum.pictures)).collect()
        };
        let all: BTreeSet<_> = methods.iter().filter_map(|method| self.of(method, group)).map(pictures).collect();
        all.iter().filter(|pictures| !pictures.is_empty()).count() < 2
    }

    /// Whether anything has an interval.
    pub fn has_intervals(&self) -> bool {
        let drawn = |trainings: &Trainings| match self.of_one {
            true => trainings.len(),
            false => trainings.keys().map(|(subject, _)| subject).collect::<BTreeSet<_>>().len(),
        };
        self.trainings.values().any(|trainings| drawn(trainings) >= FEWEST)
    }

    /// A method's mean over subjects.
    pub fn mean(&self, method: &str, group: Group, quantity: Quantity) -> Option<Estimate> {
        let values =
            self.of(method, group)?.iter().filter_map(|((subject, _), sums)| Some((subject, sums.mean(quantity)?)));
        self.estimate(values)
    }

    /// A method's mean over all pictures, as the published evaluation takes it.
    pub fn pooled(&self, method: &str, group: Group, quantity: Quantity) -> Option<f64> {
        let sums = self.of(method, group)?.values().map(|sums| sums.of(quantity));
        let (sum, count) = sums.fold((0., 0), |(sum, count), other| (sum + other.sum, count + other.count));
        (count > 0).then(|| sum / count as f64)
    }

    /// By how much a method is above another one, over the trainings of the same subject and seed of which both have
    /// the same pictures: while a study is under way, others would not be of the same prompts.
    pub fn difference(&self, method: &str, other: &str, group: Group, quantity: Quantity) -> Option<Estimate> {
        let (ours, theirs) = (self.of(method, group)?, self.of(other, group)?);
        let pairs = ours.iter().filter_map(|(key, sums)| {
            let other = theirs.get(key).filter(|other| other.of(quantity).pictures == sums.of(quantity).pictures)?;
            Some((&key.0, sums.mean(quantity)? - other.mean(quantity)?))
        });
        self.estimate(pairs)
    }

    /// A method's mean on a subject.
    pub fn of_subject(&self, method: &str, subject: &str, group: Group, quantity: Quantity) -> Option<f64> {
        let trainings = self.of(method, group)?.iter().filter(|((known, _), _)| known == subject);
        mean_of(&trainings.filter_map(|(_, sums)| sums.mean(quantity)).collect::<Vec<_>>())
    }

    /// A method's mean over all pictures of a prompt.
    pub fn of_prompt(&self, method: &str, prompt: &str, group: Group, quantity: Quantity) -> Option<f64> {
        self.prompts.get(&(group, prompt.to_string()))?.get(method)?.mean(quantity)
    }

    fn of(&self, method: &str, group: Group) -> Option<&Trainings> {
        self.trainings.get(&(method.to_string(), group))
    }

    /// The mean of values by subject, those of a subject one after another.
    fn estimate<'a>(&self, values: impl Iterator<Item = (&'a String, f64)>) -> Option<Estimate> {
        let mut subjects: Vec<(&String, Vec<f64>)> = Vec::new();
        for (subject, value) in values {
            match subjects.last_mut() {
                Some((last, seeds)) if *last == subject => seeds.push(value),
                _ => subjects.push((subject, vec![value])),
            }
        }
        let means: Vec<f64> = subjects.iter().filter_map(|(_, seeds)| mean_of(seeds)).collect();
        let drawn = if self.of_one { &subjects.first()?.1 } else { &means };
        Some(Estimate { mean: mean_of(&means)?, interval: bootstrap(drawn), subjects: means.len() })
    }
}

/// Of fewer subjects, or seeds of the only one, the interval would be no more than the lowest and the highest: it is
/// not sure at all that the mean of others lies there.
const FEWEST: usize = 5;

/// Draws from the bootstrap's distribution.
const DRAWS: usize = 4000;

/// The percentile interval of the mean of values drawn with replacement, expanded. Subjects are drawn whole: how seeds
/// differ moves their means already, and drawing seeds anew too would count it twice (Davison and Hinkley 1997, section
/// 3.8).
fn bootstrap(values: &[f64]) -> Option<[f64; 2]> {
    if values.len() < FEWEST {
        return None;
    }
    // the same draws for every table: methods are compared on the same subjects
    let mut rng = rng::stream(0, "bootstrap", 0);
    let mut drawn = || values[((u128::from(rng.next_u64()) * values.len() as u128) >> 64) as usize];
    let draws = (0..DRAWS).map(|_| values.iter().map(|_| drawn()).sum::<f64>() / values.len() as f64);
    let mut means: Vec<f64> = draws.collect();
    means.sort_by(f64::total_cmp);
    let (mean, factor) = (mean_of(values)?, expansion(values.len()));
    Some([0.025, 0.975].map(|share| mean + (quantile(&means, share) - mean) * factor))
}

/// By how much percentile intervals of so many values are too narrow (Hesterberg 2015, "What Teachers Should Know About
/// the Bootstrap"): they take the values' spread for that of all others, and know no more than a normal distribution's.
/// The quantile of Student's t is Cornish and Fisher's.
fn expansion(count: usize) -> f64 {
    let (z, freedom) = (1.96f64, (count - 1) as f64);
    let t =
        z + (z.powi(3) + z) / (4. * freedom) + (5. * z.powi(5) + 16. * z.powi(3) + 3. * z) / (96. * freedom * freedom);
    t / z * (count as f64 / freedom).sqrt()
}

/// Between the sorted values that a share of them lies below.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

fn mean_of(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::judge::Attribute;
    use crate::evaluation::scores::{Metric, Scores};

    const DINO: Quantity = Quantity::Score(Metric::Dino);

    fn entry(method: &str, subject: &str, seed: u64, prompt: &str, value: f32) -> Entry {
        let mut scores = Scores::default();
        scores.set(Metric::Dino, value);
        let (method, subject, prompt) = (method.to_string(), subject.to_string(), prompt.to_string());
        let judge = Default::default();
        Entry { id: String::new(), subject, method, seed, group: Group::Unstylised, prompt, picture: 0, scores, judge }
    }

    fn filled(entries: &[Entry]) -> Statistics {
        let mut statistics = Statistics::new(2);
        entries.iter().for_each(|entry| statistics.add(entry));
        statistics
    }

    #[test]
    fn subjects_count_alike_and_pictures_do_when_pooled() {
        let one = [entry("F", "dog", 0, "a", 0.5), entry("F", "dog", 0, "b", 0.25), entry("F", "dog", 1, "a", 0.)];
        let two = [entry("F", "cat", 0, "a", 1.)];
        let statistics = filled(&[&one[..], &two].concat());
        let mean = |method| statistics.mean(method, Group::Unstylised, DINO);
        assert_eq!(mean("F").map(|estimate| estimate.mean), Some((1. + (0.375 + 0.) / 2.) / 2.));
        assert_eq!(statistics.pooled("F", Group::Unstylised, DINO), Some(1.75 / 4.));
        assert_eq!(statistics.of_subject("F", "dog", Group::Unstylised, DINO), Some(0.1875));
        assert_eq!((mean("A"), statistics.pictures("F", Group::Unstylised, DINO)), (None, 4));
        assert_eq!(statistics.mean("F", Group::Stylised, DINO), None);
        assert_eq!(statistics.mean("F", Group::Unstylised, Metric::ClipT.into()), None);
        let of_prompt = |prompt| statistics.of_prompt("F", prompt, Group::Unstylised, DINO);
        assert_eq!(["a", "b", "c"].map(of_prompt), [Some(0.5), Some(0.25), None]);
        assert_eq!(filled(&two).mean("F", Group::Unstylised, DINO).and_then(|e| e.interval), None);
    }

    #[test]
    fn the_subject_is_the_mean_of_its_attributes_and_not_of_what_prompts_say() {
        let mut judged = entry("F", "dog", 0, "a", 0.5);
        judged.judge = [("word", 1.), ("shape", 0.5), ("place", 0.), ("style", 1.)].map(|(n, v)| (n.into(), v)).into();
        let statistics = filled(&[judged, entry("F", "dog", 0, "b", 0.25)]);
        let mean = |quantity| statistics.mean("F", Group::Unstylised, quantity).map(|estimate| estimate.mean);
        assert_eq!(mean(Quantity::Subject), Some(0.75));
        let found = [Attribute::Word, Attribute::Shape, Attribute::Place, Attribute::Main].map(Quantity::Judged);
        assert_eq!(found.map(mean), [Some(1.), Some(0.5), Some(0.), None]);
        assert_eq!(statistics.pictures("F", Group::Unstylised, Quantity::Subject), 1);
        assert!(statistics.has_any(DINO) && !statistics.has_any(Metric::DinoTrue.into()));
    }

    #[test]
    fn differences_are_taken_pair_by_pair() {
        let mut entries = Vec::new();
        for (i, subject) in ["a", "b", "c", "d", "f"].into_iter().enumerate() {
            entries.push(entry("A", subject, 0, "p", i as f32));
            entries.push(entry("F", subject, 0, "p", i as f32 + 0.5)); // subjects differ by far more than methods do
        }
        entries.push(entry("F", "e", 0, "p", 9.)); // nothing to compare with
        let unfinished = [entry("F", "g", 0, "p", 9.), entry("F", "g", 0, "q", 9.), entry("A", "g", 0, "p", 0.)];
        entries.extend(unfinished);
        let statistics = filled(&entries);
        let gap = statistics.difference("F", "A", Group::Unstylised, DINO);
        assert_eq!(gap, Some(Estimate { mean: 0.5, interval: Some([0.5, 0.5]), subjects: 5 }));
        let few: Vec<Entry> = entries.iter().filter(|entry| entry.subject != "f").cloned().collect();
        let gap = filled(&few).difference("F", "A", Group::Unstylised, DINO);
        assert_eq!(gap, Some(Estimate { mean: 0.5, interval: None, subjects: 4 }));
        assert!(statistics.has_intervals() && !filled(&few[..8]).has_intervals());
    }

    #[test]
    fn as_many_pictures_are_not_the_same_ones() {
        let of = |method: &str, pictures: &[(&str, usize)]| -> Vec<Entry> {
            let one = |&(prompt, picture): &(&str, usize)| Entry { picture, ..entry(method, "a", 0, prompt, 1.) };
            pictures.iter().map(one).collect()
        };
        let first = of("A", &[("p", 0), ("q", 0)]);
        for (other, same) in [(of("F", &[("p", 0), ("p", 1)]), false), (of("F", &[("q", 0), ("p", 0)]), true)] {
            let statistics = filled(&[&first[..], &other].concat());
            assert_eq!(statistics.difference("F", "A", Group::Unstylised, DINO).is_some(), same);
            assert_eq!(statistics.comparable(&["A", "F", "none yet"], Group::Unstylised, DINO), same);
        }
    }

    #[test]
    fn intervals_of_few_are_as_wide_as_students() {
        for (count, known) in [(5, 2.776), (10, 2.262), (31, 2.042)] {
            let t = 1.96 * expansion(count) * (1. - 1. / count as f64).sqrt();
            assert!((t / known - 1.).abs() < 0.02, "{count}: {t}");
        }
    }

    #[test]
    fn intervals_are_those_of_a_normal_mean() {
        let count = 400;
        let value = |i: usize| ((i * 7919 % count) as f64 + 0.5) / count as f64;
        let half = 1.96 * (1. / 12f64).sqrt() / (count as f64).sqrt();
        let names: Vec<String> = (0..count).map(|i| format!("{i:03}")).collect();
        let estimate =
            |count, values: Vec<(&String, f64)>| Statistics::new(count).estimate(values.into_iter()).unwrap();
        let subjects: Vec<(&String, f64)> = names.iter().enumerate().map(|(i, name)| (name, value(i))).collect();
        let seeds: Vec<(&String, f64)> = subjects.iter().map(|&(_, value)| (&names[0], value)).collect();
        // seeds that add as much spread as subjects have: it is that of the subjects' means, not counted again
        let twice: Vec<(&String, f64)> =
            subjects.iter().flat_map(|&(name, value)| [(name, value - 0.5), (name, value + 0.5)]).collect();
        // of many subjects of which one is done nothing is known of others
        assert_eq!(estimate(count, seeds.clone()).interval, None);
        for (planned, values) in [(count, subjects), (1, seeds), (count, twice)] {
            let [low, high] = estimate(planned, values).interval.unwrap();
            assert!(
                ((high - low) / 2. / half - 1.).abs() < 0.06 && (low + high - 1.).abs() < 0.004,
                "{low} {high} {half}"
            );
        }
        assert_eq!(quantile(&[0., 1., 2.], 0.75), 1.5);
    }
}
