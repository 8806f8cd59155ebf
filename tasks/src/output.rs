//! Names of outputs. Most are one word (`image`, `video`). A task whose results cannot be listed in advance produces a
//! folder of them: `files/depth/0001.exr`. As the names come from workers, they are checked before they become parts of
//! paths.

/// The longest name of an output, in bytes, and of one part of it.
pub const NAME_BYTES_MAX: usize = 400;
const PART_BYTES_MAX: usize = 200;
/// The most outputs in folders that one task may produce.
pub const IN_FOLDERS_MAX: usize = 1_000;

/// Checks the name of an output, which must be a relative path of plain names; the error says what is wrong.
pub fn check_name(name: &str) -> Result<(), String> {
    let bad = |c: char| c.is_control() || c == '\\';
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= PART_BYTES_MAX && !part.contains(bad)
    };
    // Artifact storage drops white space at the end.
    if name.len() <= NAME_BYTES_MAX && name.trim_end() == name && name.split('/').all(plain) {
        return Ok(());
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Err(format!(
        "`{shown}` cannot be the name of an output: expected a relative path without `..` and without white space \
         at its end, at most {NAME_BYTES_MAX} bytes long, each part at most {PART_BYTES_MAX}"
    ))
}

/// The folder of an output and its path within; `None` if it is not in a folder.
pub fn in_folder(name: &str) -> Option<(&str, &str)> {
    name.split_once('/')
}

/// Checks the names of a task's outputs; the error says what is wrong.
pub fn check_names<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Result<(), String> {
    names.clone().try_for_each(check_name)?;
    let mut inside: Vec<&str> = names.filter(|name| in_folder(name).is_some()).collect();
    if inside.len() > IN_FOLDERS_MAX {
        let count = inside.len();
        return Err(format!("it left {count} files in folders; the limit is {IN_FOLDERS_MAX}"));
    }
    inside.sort_unstable();
    match inside.array_windows().find(|[one, two]| one == two) {
        Some([twice, _]) => Err(format!("it left two outputs called `{twice}`")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_outputs_stay_inside_their_folder() {
        for name in ["image", "frame-12", "files/depth.exr", "files/a b/Ä.0001.exr", "files/..a"] {
            assert_eq!(check_name(name), Ok(()));
        }
        let long = format!("files/{}", "a/".repeat(200));
        let wide = "a".repeat(PART_BYTES_MAX + 1);
        for name in [
            "", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a\\b", "a\n", "a/b ", &long,
            &wide,
        ] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(!check_name("\u{1b}[2J/..").unwrap_err().contains('\u{1b}'));
    }

    #[test]
    fn a_task_leaves_a_limited_number_of_files_each_once() {
        let many: Vec<String> = (0..=IN_FOLDERS_MAX).map(|n| format!("files/{n}")).collect();
        let check = |names: &[String]| check_names(names.iter().map(String::as_str));
        assert_eq!(check(&many[1..]), Ok(()));
        assert!(check(&many).unwrap_err().contains("1001 files"));
        let twice = ["files/a", "image", "files/a"].map(str::to_owned);
        assert!(check(&twice).unwrap_err().contains("two outputs called `files/a`"));
    }
}
