//! The tables of a study: what stands in them.

use super::plan::{Method, Plan, last};
use super::published::{self, MEASURED_BY, Published, STEPS, WHOLE};
use super::quantity::Quantity;
use super::statistics::{Estimate, Side, Statistics};
use super::table::{Field, Mark, Table, mark_best, plain};
use crate::evaluation::scores::{Group, Metric};

/// The lists of prompts that are reported apart.
pub const GROUPS: [Group; 2] = [Group::Unstylised, Group::Stylised];

/// Names of the files of all tables that a study may have.
pub const TABLES: [&str; 10] = [
    "table1",
    "ablation",
    "methods",
    "differences",
    "steps",
    "truth",
    "truth-differences",
    "pooled",
    "subjects",
    "prompts",
];

/// All tables of a study; those that would say nothing are left out.
pub fn tables(plan: &Plan, statistics: &Statistics) -> Vec<Table> {
    let scores: Vec<Quantity> = Quantity::scores().filter(|q| statistics.has_any(*q)).collect();
    let findings: Vec<Quantity> = Quantity::findings().filter(|q| statistics.has_any(*q)).collect();
    let all = [
        beside_published(plan, statistics, Beside::METHODS),
        beside_published(plan, statistics, Beside::ABLATIONS),
        methods(plan, statistics, &Kind::SCORES, &scores),
        differences(plan, statistics, &Kind::SCORES, &scores),
        steps(plan, statistics, &scores),
        methods(plan, statistics, &Kind::FINDINGS, &findings),
        differences(plan, statistics, &Kind::FINDINGS, &findings),
        Some(pooled(plan, statistics, &scores)),
        Some(subjects(plan, statistics, &[&scores[..], &findings].concat())),
        Some(prompts(plan, statistics, &[&scores[..], &findings].concat())),
    ];
    all.into_iter().flatten().collect()
}

/// What a table is about.
struct Kind {
    /// Names of its table and of that of its differences.
    names: [&'static str; 2],
    /// The same for people; what the differences are taken to follows.
    titles: [&'static str; 2],
    note: &'static str,
}

impl Kind {
    const SCORES: Self = Self {
        names: ["methods", "differences"],
        titles: ["All methods", "Differences to"],
        note: "CLIP-T is given by both conventions.",
    };
    const FINDINGS: Self = Self {
        names: ["truth", "truth-differences"],
        titles: ["What the judge sees", "What the judge sees, differences to"],
        note: "In the world of this base every attribute has a name: the share of pictures in which its judge finds what \
               the photos show and the prompt asks for. \"subject\" is the mean over the subject's own attributes.",
    };
}

/// How fields of means stand out.
const MARKS: &str = "Bold is the best of a list of prompts, underlined the second, where all methods have the same \
                     pictures.";

/// A table of the paper.
struct Beside {
    name: &'static str,
    title: &'static str,
    rows: &'static [&'static str],
}

impl Beside {
    const METHODS: Self = Self { name: "table1", title: "Methods (Table 1)", rows: &published::METHODS };
    const ABLATIONS: Self = Self { name: "ablation", title: "Ablations (figure 7)", rows: &published::ABLATIONS };
}

/// Means with their intervals beside the published figures.
fn beside_published(plan: &Plan, statistics: &Statistics, table: Beside) -> Option<Table> {
    if table.rows.iter().filter(|key| plan.published(key).is_some()).count() < 2 {
        return None;
    }
    let metrics = [Metric::ClipT, Metric::ClipI, Metric::Dino];
    let mut header = vec!["method".to_string(), "in the study".into(), "prompts".into()];
    let base = last(&plan.base);
    for metric in metrics {
        header.extend([format!("{}, {base}", metric.name()), format!("{}, {MEASURED_BY}", metric.name())]);
    }
    let methods: Vec<&str> = table.rows.iter().filter_map(|key| Some(plan.published(key)?.name.as_str())).collect();
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        let first = rows.len();
        for published in table.rows.iter().filter_map(|key| published::row(key)) {
            let ours = plan.published(published.key);
            let mut row = [published.name, ours.map_or("", |method| &method.name), group.name()].map(plain).to_vec();
            for metric in metrics {
                row.push(plain(estimate(ours.and_then(|method| statistics.mean(&method.name, group, metric.into())))));
                row.push(plain(number(published.get(group, metric))));
            }
            rows.push(row);
        }
        for (column, metric) in (3..).step_by(2).zip(metrics) {
            if statistics.comparable(&methods, group, metric.into()) {
                mark_best(&mut rows[first..], column);
            }
            mark_best(&mut rows[first..], column + 1);
        }
    }
    let intervals = if statistics.has_intervals() { " with 95 % intervals" } else { "" };
    let mut note = format!(
        "Measured on {base} with this study's encoders, beside what the paper publishes: figures of different bases and \
         encoders compare by order and distance within a column only. Means over subjects{intervals}; the published \
         ones are over all pictures alike, which is the same where each subject has as many. {MARKS}"
    );
    if let Some((published, whole, ours)) = other_whole(plan) {
        note += &format!(" {} is here {}, and not {}.", published.name, whole.named(), ours.named());
    }
    Some(Table { name: table.name, title: table.title.into(), note, header, words: 3, rows })
}

/// The published whole method and the one that stands for it, where that is not the one that the study is about.
pub fn other_whole(plan: &Plan) -> Option<(&Published, &Method, &Method)> {
    let (whole, ours) = (plan.published(WHOLE)?, plan.method(&plan.ours)?);
    Some((published::row(WHOLE)?, whole, ours)).filter(|_| whole.name != ours.name)
}

fn header(words: &[&str], columns: &[Quantity]) -> Vec<String> {
    words.iter().copied().chain(columns.iter().map(|quantity| quantity.name())).map(String::from).collect()
}

fn methods(plan: &Plan, statistics: &Statistics, kind: &Kind, columns: &[Quantity]) -> Option<Table> {
    if columns.is_empty() {
        return None;
    }
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        let first = rows.len();
        for method in &plan.methods {
            let count = columns.iter().map(|quantity| statistics.pictures(&method.name, group, *quantity)).max();
            let title = if method.title == method.name { "" } else { &method.title };
            let mut row = vec![plain(&method.name), plain(title), plain(group.name())];
            row.push(plain(count.unwrap_or_default().to_string()));
            row.extend(columns.iter().map(|quantity| plain(estimate(statistics.mean(&method.name, group, *quantity)))));
            rows.push(row);
        }
        mark_comparable(&mut rows[first..], plan, statistics, group, columns);
    }
    let units = if plan.subjects.len() == 1 { "seeds" } else { "subjects" };
    let intervals = format!(" In brackets the 95 % interval of a bootstrap over {units}.");
    let note = format!(
        "Means over {} subjects of the means over {} training seeds and their pictures, on {}.{} {MARKS} {}",
        plan.subjects.len(),
        plan.seeds.len(),
        last(&plan.base),
        if statistics.has_intervals() { &intervals } else { "" },
        kind.note
    );
    let header = header(&["method", "what", "prompts", "pictures"], columns);
    Some(Table { name: kind.names[0], title: kind.titles[0].into(), note, header, words: 3, rows })
}

/// Marks the last columns, which are means of all methods, where none is better or worse for the pictures that it has.
fn mark_comparable(rows: &mut [Vec<Field>], plan: &Plan, statistics: &Statistics, group: Group, columns: &[Quantity]) {
    let methods: Vec<&str> = plan.methods.iter().map(|method| method.name.as_str()).collect();
    let Some(first) = rows.first().map(|row| row.len() - columns.len()) else { return };
    for (i, quantity) in columns.iter().enumerate() {
        if statistics.comparable(&methods, group, *quantity) {
            mark_best(rows, first + i);
        }
    }
}

fn differences(plan: &Plan, statistics: &Statistics, kind: &Kind, columns: &[Quantity]) -> Option<Table> {
    let baseline = plan.method(&plan.baseline)?;
    let others = plan.methods.iter().filter(|method| method.name != baseline.name);
    let pairs: Vec<[&Method; 2]> = others.map(|method| [method, baseline]).collect();
    let title = format!("{} {}", kind.titles[1], plan.baseline);
    compared(statistics, kind.names[1], title, &pairs, columns)
}

/// What each part of the ablation changes, so far as the plan has its methods.
fn steps(plan: &Plan, statistics: &Statistics, scores: &[Quantity]) -> Option<Table> {
    let pairs = STEPS.iter().filter_map(|[one, other]| Some([plan.published(one)?, plan.published(other)?]));
    let subject = statistics.has_any(Quantity::Subject).then_some(Quantity::Subject);
    let columns: Vec<Quantity> = scores.iter().copied().chain(subject).collect();
    compared(statistics, "steps", "Step by step".into(), &pairs.collect::<Vec<_>>(), &columns)
}

/// The differences of each pair of methods.
fn compared(
    statistics: &Statistics,
    name: &'static str,
    title: String,
    pairs: &[[&Method; 2]],
    columns: &[Quantity],
) -> Option<Table> {
    if pairs.is_empty() || columns.is_empty() {
        return None;
    }
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        for [one, other] in pairs {
            let field = |quantity: &Quantity| match statistics.difference(&one.name, &other.name, group, *quantity) {
                None => plain("-"),
                Some(gap) => {
                    Field { mark: if gap.side() == Side::Unsure { Mark::None } else { Mark::Best }, text: signed(gap) }
                }
            };
            let words = [format!("{} less {}", one.name, other.name), group.name().into()].map(plain);
            rows.push(words.into_iter().chain(columns.iter().map(field)).collect());
        }
    }
    let intervals = match statistics.has_intervals() {
        true => {
            ", with its 95 % interval. Differences whose interval leaves out 0 are bold. There is no correction for \
             many comparisons: of a hundred that are none about five are bold."
        }
        false => ".",
    };
    let note = format!(
        "The mean over subjects and seeds of the difference on the same subject, seed, prompts and noise{intervals}"
    );
    Some(Table { name, title, note, header: header(&["method", "prompts"], columns), words: 2, rows })
}

fn pooled(plan: &Plan, statistics: &Statistics, columns: &[Quantity]) -> Table {
    let header = header(&["method", "prompts"], columns);
    let mut rows = Vec::new();
    for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
        let first = rows.len();
        for method in &plan.methods {
            let value = |quantity: &Quantity| plain(number(statistics.pooled(&method.name, group, *quantity)));
            rows.push([&method.name, group.name()].map(plain).into_iter().chain(columns.iter().map(value)).collect());
        }
        mark_comparable(&mut rows[first..], plan, statistics, group, columns);
    }
    let note = format!("Means over all pictures alike: the same as above where every subject has as many. {MARKS}");
    Table { name: "pooled", title: "Pooled means".into(), note, header, words: 2, rows }
}

fn subjects(plan: &Plan, statistics: &Statistics, columns: &[Quantity]) -> Table {
    let header = header(&["subject", "method", "prompts"], columns);
    let mut rows = Vec::new();
    for subject in &plan.subjects {
        for group in GROUPS.into_iter().filter(|group| statistics.has(*group)) {
            for method in &plan.methods {
                let of = |quantity| statistics.of_subject(&method.name, &subject.name, group, quantity);
                let value = |quantity: &Quantity| plain(number(of(*quantity)));
                let words = [&subject.name, &method.name, group.name()].map(plain);
                rows.push(words.into_iter().chain(columns.iter().map(value)).collect());
            }
        }
    }
    let note = "Means over each subject's training seeds.";
    Table { name: "subjects", title: "Subject by subject".into(), note: note.into(), header, words: 3, rows }
}

fn prompts(plan: &Plan, statistics: &Statistics, columns: &[Quantity]) -> Table {
    let header = header(&["prompt", "prompts", "method"], columns);
    let unstylised =
        plan.prompts.live.iter().chain(plan.prompts.object.iter().filter(|p| !plan.prompts.live.contains(p)));
    let all = unstylised.map(|prompt| (Group::Unstylised, prompt));
    let all = all.chain(plan.prompts.style.iter().map(|prompt| (Group::Stylised, prompt)));
    let mut rows = Vec::new();
    for (group, prompt) in all {
        for method in &plan.methods {
            let of = |quantity: &Quantity| statistics.of_prompt(&method.name, prompt, group, *quantity);
            let values: Vec<Option<f64>> = columns.iter().map(of).collect();
            if values.iter().any(Option::is_some) {
                let words = [prompt, group.name(), &method.name].map(plain);
                rows.push(words.into_iter().chain(values.into_iter().map(|value| plain(number(value)))).collect());
            }
        }
    }
    let note = "Means over all pictures of a prompt.";
    Table { name: "prompts", title: "Prompt by prompt".into(), note: note.into(), header, words: 3, rows }
}

/// A value as papers give it, or a dash.
pub fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| unsigned(&format!("{value:.3}")))
}

/// Numbers without the sign of a nought.
fn unsigned(text: &str) -> String {
    text.replace("-0.000", "0.000")
}

fn estimate(estimate: Option<Estimate>) -> String {
    match estimate {
        None => "-".into(),
        Some(Estimate { mean, interval: None, .. }) => number(Some(mean)),
        Some(Estimate { mean, interval: Some([low, high]), .. }) => {
            unsigned(&format!("{mean:.3} [{low:.3}, {high:.3}]"))
        }
    }
}

/// A difference with its interval.
pub fn signed(Estimate { mean, interval, .. }: Estimate) -> String {
    let interval = interval.map(|[low, high]| format!(" [{low:+.3}, {high:+.3}]")).unwrap_or_default();
    unsigned(&format!("{mean:+.3}{interval}")).replace("+0.000", "0.000")
}
