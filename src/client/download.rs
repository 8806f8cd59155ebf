//! Downloads results of a run to a folder: only what is missing or differs, several files at once. A file appears when
//! it is complete; an interrupted download is resumed.

use crate::client::args::DownloadArgs;
use crate::client::bar;
use crate::client::connection::{Call, Connection, Patience, RequestError};
use crate::client::digests::{Digests, digest_of};
use crate::client::ledger::Ledger;
use crate::terminal::{complain, say};
use crate::{FAILED, SUCCEEDED};
use anyhow::Context;
use futures_util::{StreamExt as _, stream};
use glob::Pattern;
use indicatif::ProgressBar;
use pictor_api::{RunDetail, RunFile};
use pictor_server::{Destination, InTheWay, Sources, sentences};
use reqwest::StatusCode;
use reqwest::header::RANGE;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

/// Files that are downloaded at a time.
const AT_ONCE: usize = 8;
/// Most failures that are named.
const NAMED: usize = 10;
/// Most files of a run.
const FILES_MAX: usize = 10_000_000;

/// The result of a download.
#[derive(Debug, Default)]
pub(crate) struct Downloaded {
    /// All files that are in place now.
    pub(crate) files: Vec<PathBuf>,
    /// Number of files that were downloaded.
    pub(crate) fetched: usize,
    /// Why other files are missing.
    pub(crate) failures: Vec<String>,
    /// Files that were left alone although a result belongs at their path.
    pub(crate) in_the_way: Vec<InTheWay>,
}

impl Downloaded {
    /// A sentence for each reason why a file is missing.
    pub(crate) fn undelivered(&self) -> Vec<String> {
        [&self.failures[..], &sentences(&self.in_the_way)].concat()
    }
}

/// What to download, and where to.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Id of the run to download from.
    pub(crate) run: &'a str,
    /// The output folder, with what may be replaced in it.
    pub(crate) destination: &'a Destination,
    /// Only files that match: by their whole path, or by name if the pattern has no slash.
    pub(crate) pattern: Option<&'a Pattern>,
}

impl Wanted<'_> {
    fn fits(&self, path: &str) -> bool {
        let Some(pattern) = self.pattern else { return true };
        let name = path.rsplit('/').next().unwrap_or(path);
        let strict = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
        pattern.matches_with(path, strict)
            || !pattern.as_str().contains('/') && pattern.matches(name)
    }
}

/// `pictor download`: downloads the results of a run.
pub(crate) async fn fetch_all(
    server: &Connection,
    data: &Path,
    args: DownloadArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let RunDetail { run, .. } = server.get(&["runs", &args.run], &[]).await?;
    let pattern = args.pattern.as_deref().map(Pattern::new).transpose().context("the pattern")?;
    let out = args.out.unwrap_or_else(|| Path::new("out").join(&run.id));
    let out = std::path::absolute(&out).context("the output folder")?;
    let mut ledger = Ledger::open(data, &run.id);
    let sources = Sources::of(ledger.sources.iter().cloned());
    let destination = Destination { folder: out.clone(), sources, overwrite: args.overwrite };
    let wanted = Wanted { run: &run.id, destination: &destination, pattern: pattern.as_ref() };
    let mut known = Digests::open(data);
    let bar = if json { ProgressBar::hidden() } else { bar::bytes("fetching", 0) };
    let fetched = download(server, &wanted, &mut known, &mut ledger, &bar).await;
    bar.finish_and_clear();
    known.save();
    let downloaded = fetched?;
    let failures = downloaded.undelivered();
    let Downloaded { files, fetched, .. } = downloaded;
    if json {
        let files = serde_json::json!({
            "run": run.id, "files": files, "fetched": fetched, "undelivered": failures,
        });
        say(&files.to_string());
    } else {
        let there = files.len() - fetched;
        let there =
            if there > 0 { format!(", {there} of them there before") } else { String::new() };
        say(&format!("{} files in {}{there}", files.len(), out.display()));
    }
    failures.iter().take(NAMED).for_each(|failure| complain(&format!("fetch {failure}")));
    let more = failures.len().saturating_sub(NAMED);
    if more > 0 {
        complain(&format!("{more} more files could not be fetched"));
    }
    Ok(if failures.is_empty() { SUCCEEDED } else { FAILED })
}

/// Downloads the files that the run has delivered so far and the folder lacks.
pub(crate) async fn download(
    server: &Connection,
    wanted: &Wanted<'_>,
    known: &mut Digests,
    ledger: &mut Ledger,
    bar: &ProgressBar,
) -> anyhow::Result<Downloaded> {
    let items: Vec<RunFile> = server.list(&["runs", wanted.run, "files"], &[], FILES_MAX).await?;
    let mut there = Vec::new();
    let mut todo = Vec::new();
    let (items, clashes) = each_path_once(items.into_iter().filter(|item| wanted.fits(&item.path)));
    for item in items {
        let path = wanted.destination.folder.join(inside(&item.path)?);
        let list = if path.symlink_metadata().is_ok() { &mut there } else { &mut todo };
        list.push((item, path));
    }
    // A file of another size is another file, but only its content tells which.
    let is_file = |path: &&PathBuf| path.is_file();
    let paths: BTreeSet<PathBuf> =
        there.iter().map(|(_, path)| path).filter(is_file).cloned().collect();
    let digests = tokio::task::block_in_place(|| known.of(&paths, &|_| ()))?;
    let digest = |path: &PathBuf| digests.get(path).map(|found| &*found.digest);
    let (same, differ): (Vec<_>, Vec<_>) =
        there.into_iter().partition(|(item, path)| digest(path) == Some(&*item.digest));
    let files = same.into_iter().map(|(_, path)| path).collect();
    let mut downloaded = Downloaded { files, failures: clashes, ..Downloaded::default() };
    for (item, path) in differ {
        let is_source = wanted.destination.sources.has(&path);
        let is_own = digest(&path).is_some_and(|digest| ledger.has(digest));
        if !is_source && (is_own || wanted.destination.overwrite) {
            todo.push((item, path));
        } else {
            downloaded.in_the_way.push(InTheWay { is_source, path });
        }
    }
    downloaded.in_the_way.sort();
    ledger.fetching(todo.iter().map(|(item, _)| &*item.digest)).context("note what is fetched")?;
    bar.set_length(todo.iter().map(|(item, _)| item.size_bytes).sum());
    let mut fetches = stream::iter(&todo)
        .map(|(item, path)| async move { (path, fetch(server, wanted.run, item, path, bar).await) })
        .buffer_unordered(AT_ONCE);
    while let Some((path, fetched)) = fetches.next().await {
        match fetched {
            Ok(()) => {
                downloaded.fetched += 1;
                downloaded.files.push(path.clone());
            }
            Err(why) => downloaded.failures.push(format!("{}: {why:#}", path.display())),
        }
    }
    downloaded.files.sort();
    downloaded.failures.sort();
    Ok(downloaded)
}

/// The file of the first task for each path, and a sentence for each other one that differs.
fn each_path_once(items: impl Iterator<Item = RunFile>) -> (Vec<RunFile>, Vec<String>) {
    let mut clashes = Vec::new();
    let mut first: BTreeMap<String, RunFile> = BTreeMap::new();
    for item in items {
        match first.get(&item.path) {
            None => drop(first.insert(item.path.clone(), item)),
            Some(known) if known.digest == item.digest => {}
            Some(known) => clashes.push(format!(
                "{}: {} and {} both deliver there, and only the first is fetched",
                item.path, known.task, item.task
            )),
        }
    }
    (first.into_values().collect(), clashes)
}

/// Checks that a path stays inside the folder.
fn inside(path: &str) -> anyhow::Result<&Path> {
    let inner = Path::new(path);
    let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
    anyhow::ensure!(
        plain && !path.is_empty(),
        "the server names a file `{path}`, outside the folder"
    );
    Ok(inner)
}

/// Downloads one file to a file beside it, which is renamed when it is complete.
async fn fetch(
    server: &Connection,
    run: &str,
    item: &RunFile,
    path: &Path,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    tokio::fs::create_dir_all(folder).await.context("make its folder")?;
    let (name, content) = (blake3::hash(item.path.as_bytes()).to_hex(), item.digest.get(..16));
    let part = folder.join(format!(".{}-{}.part", &name[..16], content.unwrap_or("x")));
    let file = std::fs::File::options().create(true).append(true).open(&part)?;
    file.try_lock().context("another pictor is fetching it")?;
    let mut file = tokio::fs::File::from_std(file);
    let mut patience = Patience::default();
    bar.inc(file.metadata().await?.len().min(item.size_bytes));
    loop {
        let have = file.seek(std::io::SeekFrom::End(0)).await?;
        let Err(error) = rest(server, run, item, (&mut file, have, bar)).await else { break };
        let after = file.metadata().await?.len();
        if after > have {
            patience.reset();
        }
        match error.downcast::<RequestError>() {
            Ok(error) if error.is_retryable() && patience.wait(&error).await => {}
            Ok(error) => return Err(error.into()),
            Err(error) => return Err(error),
        }
    }
    file.sync_all().await?;
    let checked = part.clone();
    let digest = tokio::task::spawn_blocking(move || digest_of(&checked)).await??.digest;
    if digest != item.digest {
        tokio::fs::remove_file(&part).await?;
        anyhow::bail!("what arrived is not what the server announced; try again");
    }
    tokio::fs::rename(&part, path).await?;
    Ok(())
}

/// Downloads the rest of a file that has `have` bytes already.
async fn rest(
    server: &Connection,
    run: &str,
    item: &RunFile,
    (file, have, bar): (&mut tokio::fs::File, u64, &ProgressBar),
) -> anyhow::Result<()> {
    if have == item.size_bytes {
        return Ok(());
    }
    let mut path = vec!["runs", run, "files"];
    path.extend(item.path.split('/'));
    let range = [(RANGE, format!("bytes={have}-"))];
    let headers = if have > 0 && have < item.size_bytes { &range[..] } else { &[] };
    let mut response = server.start(&Call { headers, ..Call::get(&path) }).await?;
    if response.status() != StatusCode::PARTIAL_CONTENT {
        file.set_len(0).await?;
    }
    while let Some(piece) = response.chunk().await.map_err(|error| server.unreachable(error))? {
        file.write_all(&piece).await?;
        bar.inc(piece.len() as u64);
    }
    file.flush().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_about_names_unless_it_has_a_slash() {
        let fits = |pattern: &str, path: &str| {
            let pattern = Pattern::new(pattern).unwrap();
            let destination = &Destination::default();
            Wanted { run: "r", destination, pattern: Some(&pattern) }.fits(path)
        };
        assert!(fits("*.png", "previews/0001.png"));
        assert!(!fits("*.png", "frames/0001.exr"));
        assert!(fits("frames/*", "frames/0001.exr") && !fits("frames/*", "frames/deep/0001.exr"));
        assert!(fits("**/0001.*", "frames/deep/0001.exr"));
        assert!(fits("film.mp4", "film.mp4") && !fits("film.mp4", "films.mp4"));
    }

    #[test]
    fn no_path_leads_out_of_the_folder() {
        for bad in ["", "/etc/passwd", "../x", "a/../../x"] {
            assert!(inside(bad).is_err(), "{bad}");
        }
        assert_eq!(inside("a/b.png").unwrap(), Path::new("a/b.png"));
    }
}
