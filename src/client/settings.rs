//! Which server to use, with which token: options take precedence over environment variables, and these over
//! `~/.config/pictor/config.toml`.

use crate::blenders::BlenderTable;
use crate::sandbox::SandboxTable;
use anyhow::Context;
use clap::Args;
use reqwest::Url;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Options for reaching a server. Without one, commands work on the data folder of this machine.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Server")]
pub(crate) struct ServerArgs {
    /// The address of a server, such as `https://farm.example`; if empty, this machine.
    #[arg(long, global = true, value_name = "URL", env = "PICTOR_SERVER")]
    server: Option<String>,
    /// The token to authenticate with. A file is safer, since others can see the arguments of a program.
    #[arg(long, global = true, value_name = "TOKEN", env = "PICTOR_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// A file that contains the token.
    #[arg(long, global = true, value_name = "FILE", env = "PICTOR_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

/// The user's configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    server: Option<String>,
    token_file: Option<PathBuf>,
    #[serde(default)]
    blender: BlenderTable,
    #[serde(default)]
    sandbox: SandboxTable,
}

/// The Blenders named in the user's configuration.
pub(crate) fn blenders_of_user() -> anyhow::Result<BlenderTable> {
    Ok(of_user()?.blender)
}

/// The sandbox of the user's configuration.
pub(crate) fn sandbox_of_user() -> anyhow::Result<SandboxTable> {
    Ok(of_user()?.sandbox)
}

fn of_user() -> anyhow::Result<Configuration> {
    let Some(path) = config_path() else { return Ok(Configuration::default()) };
    match read(&path) {
        // A home folder of another user, as after `su`, says nothing about this user's wishes.
        Err(error) if is_forbidden(&error) => Ok(Configuration::default()),
        read => read,
    }
}

fn is_forbidden(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::PermissionDenied)
}

/// A server and the token for it.
#[derive(Debug)]
pub(crate) struct Target {
    /// Address of the server.
    pub(crate) url: Url,
    /// The token, if one is given.
    pub(crate) token: Option<String>,
}

impl ServerArgs {
    /// The server to use. Returns `None` for this machine. `local` says that the user named a data folder, which takes
    /// precedence over the configuration file.
    pub(crate) fn target(&self, local: bool) -> anyhow::Result<Option<Target>> {
        let said = self.server.is_some() || local;
        let path = config_path().filter(|_| !said || self.token.is_none());
        let file = path.map_or_else(|| Ok(Configuration::default()), |path| read(&path))?;
        let named = self.server.clone().or(file.server.clone().filter(|_| !local));
        let Some(server) = named.filter(|server| !server.is_empty()) else { return Ok(None) };
        let url = address(&server)?;
        let token = match (&self.token_file, &self.token) {
            (Some(file), _) => Some(token_in(file)?),
            (None, Some(token)) => Some(token.trim().to_owned()),
            // The token of one server must not be sent to another.
            (None, None) if file.server.as_deref().is_none_or(|known| known == server) => {
                file.token_file.as_deref().map(token_in).transpose()?
            }
            (None, None) => None,
        };
        Ok(Some(Target { url, token: token.filter(|token| !token.is_empty()) }))
    }

    /// Server, token and token file as given: a worker reads them in its own way.
    pub(crate) fn said(&self) -> (Option<&str>, Option<&str>, Option<&Path>) {
        (self.server.as_deref(), self.token.as_deref(), self.token_file.as_deref())
    }

    /// The server to use. Fails if none is given.
    pub(crate) fn required(&self) -> anyhow::Result<Target> {
        self.target(false)?.context("which server? Say it with --server URL or PICTOR_SERVER")
    }
}

fn address(server: &str) -> anyhow::Result<Url> {
    let whole = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let url = Url::parse(&whole).with_context(|| format!("`{server}` is not an address"))?;
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host();
    anyhow::ensure!(fits, "`{server}` is not an address: expected http://… or https://…");
    Ok(url)
}

fn token_in(path: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(path);
    let text = text.with_context(|| format!("read the token in {}", path.display()))?;
    Ok(text.trim().to_owned())
}

fn read(path: &Path) -> anyhow::Result<Configuration> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Configuration::default());
        }
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    let mut file: Configuration =
        toml::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    let beside = path.parent().unwrap_or(path);
    file.token_file = file.token_file.map(|file| beside.join(file));
    file.blender = file.blender.beside(beside);
    Ok(file)
}

/// The path of the configuration: `$XDG_CONFIG_HOME/pictor/config.toml` or `~/.config/pictor/config.toml`.
fn config_path() -> Option<PathBuf> {
    crate::of_the_user("XDG_CONFIG_HOME", ".config").map(|folder| folder.join("config.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_leave_out_the_scheme() {
        for (said, meant) in [
            ("farm:7420", "http://farm:7420/"),
            ("https://farm.example/pictor/", "https://farm.example/pictor/"),
            ("http://[::1]:80", "http://[::1]/"),
        ] {
            assert_eq!(address(said).unwrap().as_str(), meant);
        }
        for bad in ["ftp://farm", "http://", "unix:///x"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_token_file_lies_beside_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        assert!(read(&path).unwrap().server.is_none());
        std::fs::write(&path, "server = \"https://farm\"\ntoken_file = \"token\"\n").unwrap();
        assert_eq!(read(&path).unwrap().token_file.unwrap(), folder.path().join("token"));
        std::fs::write(&path, "sever = \"https://farm\"\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("sever"));
    }
}
