//! The prompts that an evaluation draws, and the texts that CLIP compares the pictures with.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What stands for the subject in a prompt template.
pub const SLOT: &str = "{}";

const LIVE: &str = include_str!("../../assets/prompts/live.txt");
const OBJECT: &str = include_str!("../../assets/prompts/object.txt");
const STYLE: &str = include_str!("../../assets/prompts/style.txt");

/// What kind of subject: prompts that suit an animal ("asleep") do not suit a teapot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// People and animals.
    Live,
    /// Everything else.
    Object,
}

/// Prompt templates, [`SLOT`] standing for the subject; the easiest first.
#[derive(Clone, Debug, PartialEq)]
pub struct PromptSet {
    /// Photos of the subject in other places, dress and doings.
    pub unstylised: Vec<String>,
    /// Paintings, drawings and other renderings.
    pub stylised: Vec<String>,
}

/// The kind of a class: its last word decides ("black cat"), in singular or plural, unless the words
/// before it say that it is made of something ("teddy bear"). A word not known is an object.
pub fn kind_of(class: &str) -> Kind {
    let class = class.to_lowercase();
    let words: Vec<&str> = class.split(|c: char| !c.is_alphabetic()).filter(|w| !w.is_empty()).collect();
    match words.split_last() {
        Some((head, before)) if is_live(head) && !before.iter().any(|w| listed(MAKES, w)) => Kind::Live,
        _ => Kind::Object,
    }
}

/// The built-in templates for a kind of subject.
pub fn builtin(kind: Kind) -> PromptSet {
    let unstylised = match kind {
        Kind::Live => LIVE,
        Kind::Object => OBJECT,
    };
    PromptSet { unstylised: lines(unstylised), stylised: lines(STYLE) }
}

/// The prompts of a text file, one a line; blank lines and those that start with `#` are skipped.
///
/// # Errors
/// If the file cannot be read as UTF-8 text, or holds no prompt.
pub fn read_file(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read prompts from {} (a text file, one prompt a line)", path.display()))?;
    let prompts = lines(text.trim_start_matches('\u{feff}')); // some editors begin a file with this mark
    if prompts.is_empty() {
        bail!("{} holds no prompt: write one a line, with S* or {SLOT} where the subject goes", path.display())
    }
    Ok(prompts)
}

/// A template with `subject` ("S* dog") in every slot.
pub fn fill(template: &str, subject: &str) -> String {
    template.replace(SLOT, subject)
}

/// A prompt as CLIP-T compares it: without the placeholder, which CLIP does not know, with several subjects without
/// `S2*` and so on, and without what they would leave behind ("a S* dog" -> "a dog", "S*'s ball, S*." -> "ball.").
pub fn without_placeholder(prompt: &str, placeholder: &str) -> String {
    let text = blanked(prompt, placeholder).replace("( )", " ");
    let mut text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for mark in [",", ".", ";", ":", "!", "?", ")"] {
        text = text.replace(&format!(" {mark}"), mark);
    }
    for (doubled, single) in [("( ", "("), (",,", ","), (",.", ".")] {
        text = text.replace(doubled, single);
    }
    text.trim_start_matches([',', ';', ':', ' ']).trim_end_matches([',', ';', ':', ' ']).to_string()
}

/// A text with a space in place of every placeholder, numbered or not, and of the `'s` that follows it.
fn blanked(text: &str, placeholder: &str) -> String {
    let mut letters = placeholder.chars();
    let Some(first) = letters.next() else { return text.to_string() };
    let (mut done, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(first) {
        done += before;
        let behind = after.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix(letters.as_str());
        match behind {
            Some(behind) => {
                done.push(' ');
                let possessive = ["'s", "\u{2019}s"].into_iter().find_map(|ending| behind.strip_prefix(ending));
                rest = possessive.unwrap_or(behind);
            }
            None => {
                done.push(first);
                rest = after;
            }
        }
    }
    done + rest
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(String::from).collect()
}

fn is_live(word: &str) -> bool {
    let plural = [("", ""), ("s", ""), ("es", ""), ("ies", "y"), ("ves", "f")];
    plural.iter().any(|(ending, instead)| {
        word.strip_suffix(ending).is_some_and(|stem| listed(LIVING, &format!("{stem}{instead}")))
    })
}

fn listed(words: &str, word: &str) -> bool {
    words.split_whitespace().any(|w| w == word)
}

/// Words that turn an animal into a thing.
const MAKES: &str = "
carved ceramic clay computer crochet felt figurine glass gummy hot inflatable knitted origami paper plastic plush
porcelain robot rubber sculpted statue stone stuffed teddy toy wooden
";

/// People, animals and creatures of legend, in the singular, with the plurals that follow no rule.
const LIVING: &str = "
person people human man men woman women child children kid boy girl baby babies toddler teenager adult lady gentleman guy
mother father mom dad parent sister brother daughter son grandmother grandfather grandma grandpa friend family couple bride
groom wife wives husband doctor nurse teacher student chef cook firefighter policeman policewoman soldier pirate knight king
queen prince princess wizard witch elf elves fairy mermaid astronaut dancer singer musician actor actress athlete player runner
worker farmer sailor
animal pet creature beast mammal bird insect reptile amphibian bug
dog puppy pup hound poodle corgi husky beagle bulldog labrador retriever terrier dachshund chihuahua pug dalmatian collie
spaniel schnauzer shepherd rottweiler doberman pitbull pomeranian samoyed shiba akita malamute greyhound whippet mastiff
pomsky shihtzu maltese doodle labradoodle goldendoodle
cat kitten kitty tabby siamese persian sphynx lion lioness tiger leopard cheetah jaguar panther puma cougar lynx bobcat
wolf fox coyote jackal hyena bear cub panda koala raccoon badger otter beaver skunk weasel ferret mink marten mongoose meerkat
rabbit bunny hare mouse mice rat hamster gerbil guineapig chinchilla squirrel chipmunk hedgehog porcupine mole shrew bat
horse pony foal mare stallion donkey mule zebra cow bull ox oxen calf calves buffalo bison yak sheep lamb ram goat kid pig piglet hog
boar deer fawn stag doe elk moose reindeer caribou antelope gazelle giraffe okapi camel dromedary llama alpaca elephant rhino
rhinoceros hippo hippopotamus tapir sloth anteater armadillo pangolin kangaroo wallaby wombat possum opossum platypus
monkey ape gorilla chimp chimpanzee orangutan baboon lemur gibbon
whale dolphin porpoise orca seal walrus manatee shark fish goldfish koi salmon trout tuna carp eel clownfish seahorse octopus
squid jellyfish starfish crab lobster shrimp prawn snail slug clam
chicken hen rooster chick duck duckling goose geese gosling swan turkey peacock pheasant quail pigeon dove sparrow robin finch
canary parrot parakeet budgie cockatoo cockatiel macaw crow raven magpie jay owl eagle hawk falcon vulture stork heron crane
flamingo pelican gull seagull albatross puffin penguin ostrich emu toucan hummingbird woodpecker kingfisher swallow
snake python cobra viper lizard gecko iguana chameleon dragon crocodile alligator turtle tortoise frog toad newt salamander axolotl
dinosaur unicorn pegasus phoenix griffin
butterfly moth caterpillar bee bumblebee wasp ant beetle ladybug ladybird dragonfly grasshopper cricket mantis spider scorpion fly
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builtin_lists_are_whole_and_every_template_has_one_slot() {
        for (kind, first) in [(Kind::Live, "a {} at the beach"), (Kind::Object, "a {} at the beach")] {
            let set = builtin(kind);
            assert_eq!((set.unstylised.len(), set.stylised.len()), (24, 20));
            assert_eq!((set.unstylised[0].as_str(), set.stylised[0].as_str()), (first, "a {} in van gogh style"));
            let mut all = [set.unstylised, set.stylised].concat();
            assert!(all.iter().all(|p| p.matches(SLOT).count() == 1 && p.is_ascii()));
            all.sort();
            all.dedup();
            assert_eq!(all.len(), 44, "a prompt is there twice");
        }
        assert_ne!(builtin(Kind::Live).unstylised, builtin(Kind::Object).unstylised);
    }

    #[test]
    fn the_last_word_of_a_class_decides() {
        for live in [
            "dog",
            "Dog",
            "black cat",
            "puppies",
            "wolves",
            "foxes",
            "old women",
            "sea lion",
            "dogs",
            "unicorn",
            "S* dog",
            "cat_2",
        ] {
            assert_eq!(kind_of(live), Kind::Live, "{live}");
        }
        for object in [
            "teapot",
            "dog bowl",
            "cat toy",
            "teddy bear",
            "stuffed animal",
            "toy-dog",
            "bus",
            "glasses",
            "shoes",
            "robot",
            "",
            "7",
        ] {
            assert_eq!(kind_of(object), Kind::Object, "{object}");
        }
    }

    #[test]
    fn files_skip_comments_and_say_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prompts.txt");
        std::fs::write(&path, "\u{feff}# mine\r\na {} on a boat \r\n\n  S* dog #1\n").unwrap();
        assert_eq!(read_file(&path).unwrap(), ["a {} on a boat", "S* dog #1"]);
        std::fs::write(&path, "# nothing\n\n").unwrap();
        assert!(read_file(&path).unwrap_err().to_string().contains("prompts.txt holds no prompt"));
        std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
        assert!(read_file(&path).unwrap_err().to_string().contains("cannot read prompts from"));
        assert!(read_file(&folder.path().join("none.txt")).is_err());
    }

    #[test]
    fn slots_are_filled() {
        assert_eq!(fill("a {} in the snow", "S* dog"), "a S* dog in the snow");
        assert_eq!(fill("{} and {}", "x"), "x and x");
        assert_eq!(fill("a S* dog", "cat"), "a S* dog");
    }

    #[test]
    fn the_placeholder_leaves_no_trace() {
        for (prompt, text) in [
            ("a S* dog in the snow", "a dog in the snow"),
            ("S* dog in van gogh style", "dog in van gogh style"),
            ("a S*dog", "a dog"),
            ("S*'s red ball", "red ball"),
            ("photo of S*.", "photo of."),
            ("a painting of S*, a dog", "a painting of, a dog"),
            ("S*, a dog", "a dog"),
            ("a dog (S*), running", "a dog, running"),
            ("S* and S* dogs", "and dogs"),
            ("  two   dogs! ", "two dogs!"),
            ("S*", ""),
            ("a S* dog beside a S2* cat and S12*'s ball", "a dog beside a cat and ball"),
            ("a USS 2 ship, S2 and S * dogs", "a USS 2 ship, S2 and S * dogs"),
        ] {
            assert_eq!(without_placeholder(prompt, "S*"), text, "{prompt}");
        }
        assert_eq!(without_placeholder("a <new1> cat", "<new1>"), "a cat");
        assert_eq!(without_placeholder("a cat", ""), "a cat");
    }
}
