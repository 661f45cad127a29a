//! The secret by which the admin server knows who may change something: whoever can read the gateway's state directory. A loopback
//! address alone would let every account of the machine delete parked records.

use crate::ground::secrets::{apart, scope, wipe_stack};
use crate::ground::text::hex;
use std::fmt;
use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const FILE: &str = "admin-token";
const RANDOM_BYTES: usize = 32;
/// The stack that drawing one reaches down to at most.
const STACK_BYTES: usize = 16 * 1024;

/// 64 hexadecimal digits, new with each start. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

impl Token {
    /// Where a gateway with this state directory leaves it.
    pub fn path(state_directory: &Path) -> PathBuf {
        state_directory.join(FILE)
    }

    /// Draws one and leaves it in the state directory, for nobody but the user of this process (mode 0600). It is written in place and
    /// always of one length, so that a full disk has room for it once it was there.
    ///
    /// # Errors
    /// Those of the file, and of the kernel's random numbers.
    pub fn leave(state_directory: &Path) -> io::Result<Self> {
        let left = apart(|| scope(|| Self::leave_drawn(state_directory)));
        wipe_stack::<STACK_BYTES>();
        left
    }

    fn leave_drawn(state_directory: &Path) -> io::Result<Self> {
        let mut random = [0; RANDOM_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        let text = hex(&random);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(Self::path(state_directory))?;
        // One that was there may have been copied, with the modes of the copy.
        file.set_permissions(Permissions::from_mode(0o600))?;
        writeln!(file, "{text}")?;
        file.set_len(text.len() as u64 + 1)?;
        Ok(Self(text))
    }

    /// That of the gateway that runs with this state directory.
    ///
    /// # Errors
    /// Those of the file, also if what it holds is none.
    pub fn read(state_directory: &Path) -> io::Result<Self> {
        let mut text = String::new();
        File::open(Self::path(state_directory))?.take(1024).read_to_string(&mut text)?;
        let text = text.trim();
        if text.len() != 2 * RANDOM_BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "there is no token in it"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The Authorization header's value (RFC 6750 section 2.1).
    pub fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether an Authorization header has it. How long that takes tells nothing of it.
    pub fn is_in(&self, authorization: &[u8]) -> bool {
        const SCHEME: &[u8] = b"Bearer ";
        let Some((scheme, given)) = authorization.split_at_checked(SCHEME.len()) else { return false };
        let differing = given.iter().zip(self.0.as_bytes()).fold(0, |bits, (a, b)| bits | (a ^ b));
        scheme.eq_ignore_ascii_case(SCHEME) && given.len() == self.0.len() && std::hint::black_box(differing) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_start_leaves_another_one_that_nobody_else_can_read() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(Token::read(directory.path()).expect_err("none yet").kind(), io::ErrorKind::NotFound);
        let path = Token::path(directory.path());
        std::fs::write(&path, "x".repeat(100)).expect("written");
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
        assert_eq!(Token::read(directory.path()).expect_err("no token").kind(), io::ErrorKind::InvalidData);
        let first = Token::leave(directory.path()).expect("left");
        assert_eq!(Token::read(directory.path()).expect("read"), first);
        assert_eq!(path.metadata().expect("there").permissions().mode() & 0o777, 0o600);
        assert_ne!(Token::leave(directory.path()).expect("left"), first);
        std::fs::remove_file(&path).expect("removed");
        std::os::unix::fs::symlink("/dev/null", &path).expect("linked");
        assert!(Token::leave(directory.path()).is_err(), "a link leads elsewhere");
    }

    #[test]
    fn only_the_whole_token_is_taken() {
        let directory = tempfile::tempdir().expect("a directory");
        let token = Token::leave(directory.path()).expect("left");
        let good = token.authorization();
        assert!(token.is_in(good.as_bytes()) && token.is_in(good.replace("Bearer", "bearer").as_bytes()));
        let other = if good.ends_with('0') { "1" } else { "0" };
        for wrong in [
            String::new(),
            "Bearer ".to_owned(),
            good[..good.len() - 1].to_owned(),
            good[..good.len() - 1].to_owned() + other,
            format!("{good}0"),
            good.replace("Bearer", "Basic"),
            token.0.clone(),
        ] {
            assert!(!token.is_in(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{token:?}").contains(&token.0));
    }
}
