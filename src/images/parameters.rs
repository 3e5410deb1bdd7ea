//! What a picture's file says of how it was drawn, in the layout of AUTOMATIC1111's web UI.

/// The line that begins with this ends the prompts.
const SETTINGS: &str = "Steps:";

const NEGATIVE: &str = "Negative prompt:";

/// How a picture was drawn, as far as its file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// The prompt, which may have several lines; empty where there was none.
    pub prompt: String,
    /// What it should not show.
    pub negative: String,
    /// Names and values of all else, in the file's order.
    pub settings: Vec<(String, String)>,
}

impl Written {
    /// Takes a text apart: lines of the prompt, then of the negative one, then a line of settings. A prompt with
    /// a line that begins with "Negative prompt:" cannot be told from two prompts.
    pub fn parse(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().collect();
        // the last such line: prompts may talk of steps too
        let end = lines.iter().rposition(|line| line.trim_start().starts_with(SETTINGS)).unwrap_or(lines.len());
        let (prompts, settings) = lines.split_at(end);
        let negative = prompts.iter().position(|line| line.trim_start().starts_with(NEGATIVE)).unwrap_or(end);
        let (prompt, negative) = prompts.split_at(negative);
        let negative = negative.join("\n");
        let negative = negative.trim_start();
        Self {
            prompt: prompt.join("\n").trim().to_string(),
            negative: negative.strip_prefix(NEGATIVE).unwrap_or(negative).trim().to_string(),
            settings: pairs(&settings.join("\n")),
        }
    }

    /// The value of a setting, e.g. `Seed`.
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// `name: value, name: "quoted, value"`.
fn pairs(mut text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    while let Some((name, rest)) = text.split_once(':') {
        let rest = rest.trim_start_matches(' ');
        let (value, after) = value(rest);
        pairs.push((name.trim().to_string(), value));
        text = after;
    }
    pairs
}

/// A value, and what comes after its comma.
fn value(text: &str) -> (String, &str) {
    if text.starts_with('"') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
        if let Some(Ok(value)) = values.next() {
            let rest = &text[values.byte_offset()..];
            return (value, rest.trim_start().strip_prefix(',').unwrap_or(rest));
        }
    }
    let (value, rest) = text.split_once([',', '\n']).unwrap_or((text, ""));
    (value.trim().to_string(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::png::Parameters;
    use rand::RngExt;
    use rand::seq::IndexedRandom;

    fn written(prompt: &str, negative: &str) -> Written {
        Written { prompt: prompt.into(), negative: negative.into(), settings: Vec::new() }
    }

    #[test]
    fn prompts_of_any_number_of_lines_are_read() {
        let settings = "Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1";
        for (text, expected) in [
            (format!("a dog\n{settings}"), written("a dog", "")),
            (format!("a dog\nin the snow\n\nat night\n{settings}"), written("a dog\nin the snow\n\nat night", "")),
            (format!("a dog\r\nNegative prompt: ugly,\r\nblurry\r\n{settings}"), written("a dog", "ugly,\nblurry")),
            (format!("Negative prompt: ugly\n{settings}"), written("", "ugly")),
            (format!("\nNegative prompt: ugly\n{settings}"), written("", "ugly")),
            (settings.to_string(), written("", "")),
            (format!("\n{settings}"), written("", "")),
            (format!("three\nSteps: of a stair\n{settings}"), written("three\nSteps: of a stair", "")),
            ("a dog".to_string(), written("a dog", "")),
            (String::new(), written("", "")),
        ] {
            let found = Written::parse(&text);
            assert_eq!(found.setting("Seed"), text.contains("Seed").then_some("1"), "{text}");
            assert_eq!(Written { settings: Vec::new(), ..found }, expected, "{text}");
        }
    }

    #[test]
    fn quoted_settings_are_whole() {
        let text = "Steps: 4, Model: \"a, \\\"b\\\": c\", Hashes: {x}, Lora: \"open, Seed: 3";
        let found = Written::parse(text);
        assert_eq!(found.setting("Model"), Some("a, \"b\": c"));
        assert_eq!((found.setting("Hashes"), found.setting("Seed")), (Some("{x}"), Some("3")));
    }

    #[test]
    fn what_is_written_is_read() {
        let mut rng = crate::rng::stream(1, "parameters", 0);
        let pieces = [
            "a",
            " dog",
            "\n",
            ",",
            ": ",
            "\"",
            "Steps: 3",
            "日本",
            "é",
            "\n\n",
            "{}",
            "\\",
            "S*",
            "Seed: 9, ",
            "\u{301}",
        ];
        for _ in 0..500 {
            let mut text = |longest: usize| {
                let count = rng.random_range(0..=longest);
                let all: String = (0..count).filter_map(|_| pieces.choose(&mut rng)).copied().collect();
                all.trim().to_string()
            };
            let (prompt, negative, model) = (text(8), text(5), text(4));
            let parameters = Parameters {
                prompt: &prompt,
                negative: &negative,
                steps: 50,
                sampler: "DDIM",
                guidance: 7.5,
                guidance_rescale: 0.,
                others: Vec::new(),
                seed: 42,
                width: 512,
                height: 256,
                model: &model,
            };
            let found = Written::parse(&parameters.to_string());
            assert_eq!((&found.prompt, &found.negative), (&prompt, &negative));
            assert_eq!((found.setting("Steps"), found.setting("Size")), (Some("50"), Some("512x256")));
            if !model.starts_with('"') {
                assert_eq!(found.setting("Model"), Some(model.as_str()));
            }
        }
    }
}
