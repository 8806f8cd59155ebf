//! A lock on a folder that is released when the process that holds it ends.

use crate::Error;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

/// The file in a locked folder that carries the lock and the owner's process id.
const FILE: &str = "lock";

/// Creates the folder if needed and locks it. The lock is released when the file is dropped or the process ends,
/// however it ends.
pub fn lock(folder: &Path) -> Result<File, Error> {
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    let path = folder.join(FILE);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|e| Error::io(&path, e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(|e| Error::io(&path, e))?;
            return Err(Error::Locked { pid: pid.trim().parse().ok() });
        }
        Err(errno) => return Err(Error::io(&path, errno.into())),
    }
    file.set_len(0)
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(|e| Error::io(&path, e))?;
    Ok(file)
}

/// Locks the first folder of `DIR/0`, `DIR/1`, … that nobody holds, and empties every unlocked one of what a crashed
/// owner left behind.
pub(crate) fn lock_scratch(dir: &Path) -> Result<(File, std::path::PathBuf), Error> {
    let mut mine = None;
    for number in 0_u32.. {
        let folder = dir.join(number.to_string());
        if mine.is_some() && !folder.exists() {
            break;
        }
        match lock(&folder) {
            Ok(file) => {
                sweep(&folder)?;
                mine.get_or_insert((file, folder));
            }
            Err(Error::Locked { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(mine.expect("the loop ends after a folder was locked"))
}

fn sweep(folder: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(folder).map_err(|e| Error::io(folder, e))? {
        let entry = entry.map_err(|e| Error::io(folder, e))?;
        if entry.file_name() == FILE {
            continue;
        }
        let path = entry.path();
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(|e| Error::io(&path, e))?;
    }
    Ok(())
}
