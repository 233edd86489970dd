//! The admin token of a node: a file that whoever may read it may administer with.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Error, Result, Secret};

/// Only its owner reads it.
const MODE: u32 = 0o600;
/// Shorter tokens, which someone wrote there, are refused: they can be guessed.
const SHORTEST: usize = 16;

/// Reads the token in a file, or makes one and the file. The file is whole or not there at any time, and its mode is
/// 0600 after this. Of several who make it at once all get the same.
///
/// # Errors
/// [`Error::TokenFile`] when the disk refuses, [`Error::NoToken`] when the file holds something else.
pub fn ensure_token_file(path: &Path) -> Result<Secret> {
    let failed = |cause| Error::TokenFile { path: path.display().to_string(), cause };
    match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => make(path).map_err(failed)?,
        Err(error) => return Err(failed(error)),
        Ok(_) => {}
    }
    // Read after it was made too: another may have been quicker.
    let token = fs::read_to_string(path).map_err(failed)?.trim().to_owned();
    if token.len() < SHORTEST || !token.bytes().all(|c| c.is_ascii_graphic()) {
        return Err(Error::NoToken(path.display().to_string()));
    }
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode() & 0o777;
    if mode != MODE {
        fs::set_permissions(path, fs::Permissions::from_mode(MODE)).map_err(failed)?;
    }
    Ok(Secret::new(token))
}

/// Writes a new token beside the file and links it into place, unless another was quicker.
fn make(path: &Path) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", Secret::generate().expose()));
    let made = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&beside)?;
        writeln!(file, "{}", Secret::generate().expose())?;
        file.sync_all()?;
        match fs::hard_link(&beside, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    })();
    let _ = fs::remove_file(&beside);
    made
}

/// Says whether an `Authorization` header holds the token as its bearer (RFC 6750 2.1). Time tells nothing of the token,
/// not even its length.
pub fn verify(token: &Secret, header: Option<&str>) -> bool {
    let given = header.and_then(|header| header.trim().split_once(' '));
    let Some((_, given)) = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")) else { return false };
    let (given, token) = (Sha256::digest(given.trim()), Sha256::digest(token.expose()));
    given.ct_eq(&token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("admin.token");
        let token = ensure_token_file(&path).expect("made");
        let mode = || fs::metadata(&path).expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode(), MODE);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
        assert_eq!(ensure_token_file(&path).expect("read").expose(), token.expose());
        assert_eq!(mode(), MODE);
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn all_who_make_it_at_once_get_the_same() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("admin.token");
        let tokens: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| ensure_token_file(&path).expect("made"))).collect();
            makers.into_iter().map(|maker| maker.join().expect("no panic").expose().to_owned()).collect()
        });
        assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
    }

    #[test]
    fn what_is_no_token_is_not_taken_for_one() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("admin.token");
        for text in ["", "\n", "short", "a token with spaces in it"] {
            fs::write(&path, text).expect("written");
            assert!(matches!(ensure_token_file(&path), Err(Error::NoToken(_))), "{text:?}");
        }
        let nowhere = dir.path().join("none/admin.token");
        assert!(matches!(ensure_token_file(&nowhere), Err(Error::TokenFile { .. })));
    }

    #[test]
    fn only_the_bearer_of_the_token_may() {
        let token = Secret::generate();
        let (right, other) = (token.expose(), Secret::generate());
        for header in [format!("Bearer {right}"), format!("bearer  {right}"), format!(" BEARER {right} ")] {
            assert!(verify(&token, Some(&header)), "{header}");
        }
        let wrong = [
            right.to_owned(),
            format!("Basic {right}"),
            format!("Bearer {}", other.expose()),
            format!("Bearer {right}x"),
            format!("Bearer {}", &right[1..]),
            "Bearer ".into(),
            String::new(),
        ];
        for header in wrong {
            assert!(!verify(&token, Some(&header)), "{header}");
        }
        assert!(!verify(&token, None));
    }
}
