//! Reads a source as the tests need it: the paths that it names, outside of comments and literals.

/// A path that a source names, such as `crate::shard::Op`; one for each leaf of a `use` tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its parts; a glob is `*`.
    pub parts: Vec<String>,
    /// Where it begins, from 1.
    pub line: usize,
    /// The modules around it that are written in the same file, outermost first.
    pub inside: Vec<String>,
    /// Whether one of them is only there for tests.
    pub in_test: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    Word(&'t str),
    /// `::`
    Path,
    Mark(char),
}

/// All paths of a source.
pub fn named(text: &str) -> Vec<Named> {
    let code = without_comments_and_literals(text);
    let tokens = tokens(&code);
    let mut found = Vec::new();
    let mut depth = 0;
    // Modules that are open, with the depth of braces outside of them.
    let mut open: Vec<(String, usize, bool)> = Vec::new();
    let mut is_for_test = false;
    let mut at = 0;
    while at < tokens.len() {
        let (token, line) = tokens[at];
        let mut add = |parts: Vec<String>| {
            let inside = open.iter().map(|(name, ..)| name.clone()).collect();
            found.push(Named { parts, line, inside, in_test: open.iter().any(|(_, _, test)| *test) });
        };
        match token {
            Token::Mark('#') if is_test_attribute(&tokens[at..]) => {
                (is_for_test, at) = (true, at + TEST_ATTRIBUTE.len());
                continue;
            }
            Token::Word("mod") => {
                if let Some((Token::Word(name), _)) = tokens.get(at + 1)
                    && let Some((Token::Mark('{'), _)) = tokens.get(at + 2)
                {
                    open.push(((*name).to_owned(), depth, is_for_test));
                    depth += 1;
                    at += 2;
                }
                is_for_test = false;
            }
            // `impl Trait + use<>` names lifetimes.
            Token::Word("use") if !matches!(tokens.get(at + 1), Some((Token::Mark('<'), _))) => {
                at = leaves(&tokens, at + 1, &[], &mut add);
                is_for_test = false;
                continue;
            }
            Token::Word(_) if begins_path(&tokens, at) => {
                let mut parts = Vec::new();
                at = segments(&tokens, at, &mut parts);
                add(parts);
                continue;
            }
            Token::Mark('{') => (depth, is_for_test) = (depth + 1, false),
            Token::Mark('}') => {
                depth = depth.saturating_sub(1);
                if open.last().is_some_and(|(_, outside, _)| *outside == depth) {
                    open.pop();
                }
            }
            Token::Mark(';') => is_for_test = false,
            _ => {}
        }
        at += 1;
    }
    found
}

const TEST_ATTRIBUTE: [Token<'static>; 7] = [
    Token::Mark('#'),
    Token::Mark('['),
    Token::Word("cfg"),
    Token::Mark('('),
    Token::Word("test"),
    Token::Mark(')'),
    Token::Mark(']'),
];

fn is_test_attribute(tokens: &[(Token<'_>, usize)]) -> bool {
    tokens.len() >= TEST_ATTRIBUTE.len() && tokens.iter().zip(TEST_ATTRIBUTE).all(|((token, _), asked)| *token == asked)
}

/// Whether the word at `at` begins a path of at least two parts, and does not go on with one.
fn begins_path(tokens: &[(Token<'_>, usize)], at: usize) -> bool {
    let is_followed = matches!(tokens.get(at + 1), Some((Token::Path, _)));
    let before = |back: usize| at.checked_sub(back).map(|index| tokens[index].0);
    let goes_on = before(1) == Some(Token::Path) && matches!(before(2), Some(Token::Word(_) | Token::Mark('>')));
    is_followed && !goes_on
}

/// Adds the words of a path from `at` on; where it ends.
fn segments(tokens: &[(Token<'_>, usize)], mut at: usize, parts: &mut Vec<String>) -> usize {
    while let Some((Token::Word(word), _)) = tokens.get(at) {
        parts.push((*word).to_owned());
        at += 1;
        match (tokens.get(at), tokens.get(at + 1)) {
            (Some((Token::Path, _)), Some((Token::Word(_), _))) => at += 1,
            _ => break,
        }
    }
    at
}

/// Adds each leaf of a `use` tree that begins at `at`, behind what stands before its braces; where
/// it ends.
fn leaves(tokens: &[(Token<'_>, usize)], mut at: usize, before: &[String], add: &mut impl FnMut(Vec<String>)) -> usize {
    let mut parts = before.to_vec();
    while let Some((token, _)) = tokens.get(at) {
        match token {
            Token::Path => at += 1,
            Token::Word("as") => at += 2,
            // `{self}` is the module before the braces.
            Token::Word("self") if !before.is_empty() => at += 1,
            Token::Word(word) => {
                parts.push((*word).to_owned());
                at += 1;
            }
            Token::Mark('*') => {
                parts.push("*".to_owned());
                at += 1;
            }
            Token::Mark('{') => {
                at += 1;
                while !matches!(tokens.get(at), None | Some((Token::Mark('}'), _))) {
                    at = leaves(tokens, at, &parts, add);
                    if matches!(tokens.get(at), Some((Token::Mark(','), _))) {
                        at += 1;
                    }
                }
                return at + 1;
            }
            _ => break,
        }
    }
    add(parts);
    at
}

fn tokens(code: &str) -> Vec<(Token<'_>, usize)> {
    let mut found = Vec::new();
    let (mut line, mut rest) = (1, code);
    while let Some(first) = rest.chars().next() {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = match first {
            c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
            ':' if rest.starts_with("::") => 2,
            c => c.len_utf8(),
        };
        let (token, behind) = rest.split_at(length);
        match first {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            c if is_part(c) => found.push((Token::Word(token), line)),
            ':' if length == 2 => found.push((Token::Path, line)),
            c => found.push((Token::Mark(c), line)),
        }
        rest = behind;
    }
    found
}

/// The text with blanks for comments, strings and characters; lines stay where they are.
fn without_comments_and_literals(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_in_word = code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let skipped = match first {
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => block_comment(rest),
            '"' => string(rest),
            'r' | 'b' | 'c' if !is_in_word => prefixed_string(rest),
            '\'' => character(rest),
            _ => 0,
        };
        if skipped > 0 {
            code.push(' ');
            code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
            rest = &rest[skipped..];
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

/// Length of a block comment, which may hold others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of a string that begins with its quote.
fn string(text: &str) -> usize {
    let mut bytes = text.bytes().enumerate().skip(1);
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\\' => drop(bytes.next()),
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Length of `b"…"`, `c"…"`, `r"…"`, `r#"…"#` and their mixtures; 0 if none is here.
fn prefixed_string(text: &str) -> usize {
    let prefix = text.find(|c| !matches!(c, 'r' | 'b' | 'c')).unwrap_or(text.len());
    let behind = &text[prefix..];
    let hashes = behind.find(|c| c != '#').unwrap_or(behind.len());
    if prefix > 2 || !behind[hashes..].starts_with('"') {
        return 0;
    }
    if !text[..prefix].contains('r') {
        return if hashes == 0 { prefix + string(behind) } else { 0 };
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let begin = prefix + hashes + 1;
    text[begin..].find(&end).map_or(text.len(), |at| begin + at + end.len())
}

/// Length of a character literal; 0 for a lifetime or a label.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((escaped, _))) => {
            let begin = escaped + 1;
            text[begin..].find('\'').map_or(0, |at| begin + at + 1)
        }
        (Some(_), Some((end, '\''))) => end + 1,
        _ => 0,
    }
}
