//! Where the cache is, which hub is asked and with which token: the environment that the Python tools read too.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::HubError;

/// Largest token file that is read.
const TOKEN_MAX: u64 = 64 << 10;

/// What a [`crate::Hub`] works with.
#[derive(Clone)]
pub struct Settings {
    /// Root of the cache: the directory that holds `models--org--name`.
    pub cache: PathBuf,
    /// Address of the hub.
    pub endpoint: String,
    /// Access token. It is sent to the endpoint only, and never shown.
    pub token: Option<String>,
    /// Whether the network is forbidden.
    pub offline: bool,
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .finish()
    }
}

impl Settings {
    /// Read the environment: `HF_HUB_CACHE` (or `HUGGINGFACE_HUB_CACHE`), `HF_HOME`, `XDG_CACHE_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_ENDPOINT`,
    /// `HF_HUB_OFFLINE`.
    pub fn from_env() -> Result<Settings, HubError> {
        Settings::from_variables(&|variable| std::env::var_os(variable).map(PathBuf::from))
    }

    /// The same over any source of variables.
    pub(crate) fn from_variables(get: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Settings, HubError> {
        let path = |variable: &str| get(variable).filter(|v| !v.as_os_str().is_empty());
        let text = |variable: &str| match path(variable).map(|v| v.into_os_string().into_string()) {
            None => Ok(None),
            Some(Ok(value)) => Ok(Some(value.trim().to_string()).filter(|v| !v.is_empty())),
            Some(Err(_)) => Err(setting(variable, "its value is not text; set it anew")),
        };
        let user = path("HOME");
        let expand = |p: PathBuf| match (p.strip_prefix("~"), &user) {
            (Ok(rest), Some(user)) => user.join(rest),
            _ => p,
        };
        let home = match (path("HF_HOME"), path("XDG_CACHE_HOME"), &user) {
            (Some(home), _, _) => Some(expand(home)),
            (None, Some(cache), _) => Some(expand(cache).join("huggingface")),
            (None, None, Some(user)) => Some(user.join(".cache/huggingface")),
            (None, None, None) => None,
        };
        // The older name is read as the library of Hugging Face reads it: after the newer one.
        let cache = match (path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")), &home) {
            (Some(cache), _) => expand(cache),
            (None, Some(home)) => home.join("hub"),
            (None, None) => {
                return Err(setting("HF_HOME", "neither it nor HOME is set; set HF_HUB_CACHE to a directory"));
            }
        };
        let token_path = path("HF_TOKEN_PATH").map(expand).or_else(|| home.map(|home| home.join("token")));
        let token = match (text("HF_TOKEN")?, token_path) {
            (Some(token), _) => Some(token),
            (None, Some(file)) => token_file(&file)?,
            (None, None) => None,
        };
        if token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(setting("HF_TOKEN", "the token holds blanks or control characters; copy it again"));
        }
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| "https://huggingface.co".to_string());
        let offline = text("HF_HUB_OFFLINE")?
            .is_some_and(|v| ["1", "true", "yes", "on"].contains(&v.to_ascii_lowercase().as_str()));
        Ok(Settings { cache, endpoint: endpoint.trim_end_matches('/').to_string(), token, offline })
    }
}

fn setting(variable: &str, why: &str) -> HubError {
    HubError::Setting { variable: variable.to_string(), why: why.to_string() }
}

/// The token in a file. A file that is not there is no token.
fn token_file(path: &Path) -> Result<Option<String>, HubError> {
    match std::fs::metadata(path) {
        Ok(there) if there.is_file() && there.len() <= TOKEN_MAX => {}
        Ok(_) => return Err(setting("HF_TOKEN_PATH", &format!("{} is no token file", path.display()))),
        Err(_) => return Ok(None),
    }
    let text = std::fs::read_to_string(path).map_err(|e| HubError::disk(path, e))?;
    Ok(Some(text.trim().to_string()).filter(|t| !t.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, HubError> {
        Settings::from_variables(&|v| pairs.iter().find(|(name, _)| *name == v).map(|(_, value)| PathBuf::from(value)))
    }

    #[test]
    fn the_cache_is_where_the_python_tools_have_it() {
        let cache = |pairs: &[(&str, &str)]| settings(pairs).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/h")]), Path::new("/u/h/hub"));
        assert_eq!(cache(&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h")]), Path::new("/c"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HOME", "/h")]), Path::new("/o"));
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HUB_CACHE", "")]), Path::new("/u/.cache/huggingface/hub"));
        assert!(settings(&[]).is_err());
    }

    #[test]
    fn token_endpoint_and_offline() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().to_str().unwrap();
        assert_eq!(settings(&[("HF_HOME", at)]).unwrap().token, None);
        std::fs::write(home.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", at)]).unwrap().token.as_deref(), Some("hf_file"));
        let both = settings(&[("HF_HOME", at), ("HF_TOKEN", " hf_env ")]).unwrap();
        assert_eq!(both.token.as_deref(), Some("hf_env"));
        assert!(!format!("{both:?}").contains("hf_env"));
        let error = settings(&[("HF_HOME", at), ("HF_TOKEN", "hf\nx")]).unwrap_err();
        assert!(!error.to_string().contains("hf\nx"));
        assert_eq!(both.endpoint, "https://huggingface.co");
        let other =
            settings(&[("HF_HOME", at), ("HF_ENDPOINT", "https://mirror/"), ("HF_HUB_OFFLINE", "YES")]).unwrap();
        assert_eq!((other.endpoint.as_str(), other.offline), ("https://mirror", true));
        assert!(!settings(&[("HF_HOME", at), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
    }
}
