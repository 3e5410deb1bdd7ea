//! Repositories of the Hugging Face hub, and the cache that its tools share.
//!
//! hf-hub stays at 0.5: the client of 1.0 is asynchronous underneath, its blocking form included, and brings tokio, h2,
//! hyper, aws-lc and the Xet protocol: 373 crates instead of 228 (normal and build dependencies on Linux) for a download
//! that most runs never need. Its better rules for the cache's place and for working offline are the few lines below.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use hf_hub::Cache;
use hf_hub::api::sync::{ApiBuilder, ApiRepo};

/// A repository of the Hugging Face hub.
pub struct Hub {
    id: String,
    cache: PathBuf,
    /// None if nothing may be downloaded.
    remote: Option<ApiRepo>,
}

impl Hub {
    /// Nothing is asked from the network before a file is.
    ///
    /// # Errors
    /// If there is no home folder for the cache, or the client cannot be set up.
    pub fn new(id: &str, offline: bool) -> Result<Self> {
        let cache = cache_folder()?;
        let remote = if offline || offline_by_environment(|name| std::env::var(name).ok()) {
            None
        } else {
            let mut builder = ApiBuilder::from_cache(Cache::new(cache.clone())).with_progress(true);
            if let Ok(token) = std::env::var("HF_TOKEN") {
                builder = builder.with_token(Some(token));
            }
            if let Ok(endpoint) = std::env::var("HF_ENDPOINT") {
                builder = builder.with_endpoint(endpoint);
            }
            Some(builder.build().context("cannot set up the download from the Hugging Face hub")?.model(id.to_string()))
        };
        Ok(Self { id: id.to_string(), cache, remote })
    }

    /// `OWNER/NAME`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A file that is in the cache.
    pub fn cached(&self, path: &str) -> Option<PathBuf> {
        Cache::new(self.cache.clone()).model(self.id.clone()).get(path)
    }

    /// A file of a model in the diffusers layout, downloaded if it has to be.
    ///
    /// # Errors
    /// If it is neither here nor can be downloaded; the message says what helps.
    pub fn get(&self, path: &str) -> Result<PathBuf> {
        let id = &self.id;
        self.get_or(path, || {
            format!(
                "no network? give a directory in the diffusers layout instead, or the embedded base with --base mini; \
                 {id} is no directory here"
            )
        })
    }

    /// A file, downloaded if it has to be; what to do where that cannot be is part of the error.
    ///
    /// # Errors
    /// If it is neither here nor can be downloaded.
    pub fn get_or(&self, path: &str, advice: impl Fn() -> String) -> Result<PathBuf> {
        if let Some(found) = self.cached(path) {
            return Ok(found);
        }
        match &self.remote {
            None => Err(anyhow!(
                "{path} of {} is not in {} and --offline or HF_HUB_OFFLINE forbids its download",
                self.id,
                self.cache.display()
            )),
            Some(remote) => {
                remote.get(path).with_context(|| format!("cannot download {path} of {} ({})", self.id, advice()))
            }
        }
    }

    /// The first of `paths` that the repository has.
    ///
    /// # Errors
    /// If it has none of them, or they cannot be downloaded.
    pub fn first(&self, paths: &[String]) -> Result<PathBuf> {
        if let Some(cached) = paths.iter().find_map(|path| self.cached(path)) {
            return Ok(cached);
        }
        let error = match self.get(&paths[0]) {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        let (folder, file) = paths[0].rsplit_once('/').unwrap_or(("", &paths[0]));
        let pickles = [file.replace(".safetensors", ".bin"), "pytorch_model.bin".into()];
        let cached = pickles.iter().find_map(|name| self.cached(format!("{folder}/{name}").trim_start_matches('/')));
        if let Some((found, what)) = cached.and_then(|found| crate::weights::foreign(&found).map(|what| (found, what)))
        {
            bail!("{} of {} is not in the cache, only {}, which is {what}", paths[0], self.id, found.display());
        }
        let Some(Ok(about)) = self.remote.as_ref().map(ApiRepo::info) else { return Err(error) };
        let files: Vec<&str> = about.siblings.iter().map(|file| file.rfilename.as_str()).collect();
        if let Some(path) = paths.iter().find(|path| files.contains(&path.as_str())) {
            return self.get(path);
        }
        let inside = files.iter().filter(|file| file.rsplit_once('/').map_or("", |(folder, _)| folder) == folder);
        for file in inside {
            if let Some(what) = crate::weights::foreign(file.as_ref()) {
                bail!("{} has no {}, only {file}, which is {what}", self.id, paths[0]);
            }
        }
        Err(error)
    }
}

/// Whether the environment forbids downloads, as the Python tools read it.
fn offline_by_environment(variable: impl Fn(&str) -> Option<String>) -> bool {
    let given = ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().filter_map(variable).find(|v| !v.is_empty());
    given.is_some_and(|value| ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str()))
}

/// The hub's local cache, found by the rules of the Python tools.
fn cache_folder() -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(cache) = variable("HF_HUB_CACHE") {
        return Ok(cache);
    }
    if let Some(home) = variable("HF_HOME") {
        return Ok(home.join("hub"));
    }
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    let cache = cache.or_else(|| variable("USERPROFILE").map(|home| home.join(".cache")));
    Ok(cache.context("set HF_HOME: there is no home folder to keep downloads in")?.join("huggingface/hub"))
}

/// Whether a name is one that the hub gives: `OWNER/NAME` of letters, digits, `-`, `_` and `.`.
pub(super) fn is_id(name: &str) -> bool {
    let part = |part: &str| {
        let ends = |c: char| c.is_ascii_alphanumeric() || c == '_';
        part.starts_with(ends)
            && part.ends_with(ends)
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !part.contains("..")
            && !part.contains("--")
    };
    name.len() <= 96 && name.split('/').count() == 2 && name.split('/').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_forbids_as_in_python() {
        let offline = |hub: Option<&str>, transformers: Option<&str>| {
            let value = |name: &str| if name.starts_with("HF") { hub } else { transformers };
            offline_by_environment(|name| value(name).map(String::from))
        };
        for value in ["1", "ON", "yes", "True"] {
            assert!(offline(Some(value), None) && offline(None, Some(value)), "{value}");
        }
        for value in ["0", "", "off", "no", "2"] {
            assert!(!offline(Some(value), None), "{value}");
        }
        // the second counts where the first is not given
        assert!(offline(Some(""), Some("1")) && !offline(Some("0"), Some("1")) && !offline(None, None));
    }

    #[test]
    fn repositories_and_paths_differ() {
        for id in ["CompVis/stable-diffusion-v1-4", "a/b.c", "nobody/nothing"] {
            assert!(is_id(id), "{id}");
        }
        for path in ["./parts", "../base", "/a/b", "a", "a/b/c", "a/", "~/b", "a\\b/c", "C:/x", "a/..", "a/my base"] {
            assert!(!is_id(path), "{path}");
        }
    }
}
