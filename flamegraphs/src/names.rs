//! Names of frames, made fit to read and to show: no folder of the machine that recorded them, no generic arguments.

/// The frame's name as it is drawn; `kernel` tells kernel functions from those of the process.
pub(crate) fn shown(frame: &str) -> String {
    let (name, kernel) = match frame.strip_suffix("_[k]") {
        Some(name) => (name, "_[k]"),
        None => (frame.strip_suffix("_[i]").unwrap_or(frame), ""),
    };
    format!("{}{kernel}", without_generics(&without_folders(name)))
}

/// Cuts `/any/folder/file` down to `file`, also within brackets.
fn without_folders(name: &str) -> String {
    let is_outside = |c: char| c.is_whitespace() || matches!(c, '[' | ']' | '(' | ')');
    let mut out = String::with_capacity(name.len());
    for part in name.split_inclusive(is_outside) {
        match part.rsplit_once('/') {
            Some((folders, file)) if folders.is_empty() || folders.starts_with(['/', '.', '~']) => out.push_str(file),
            _ => out.push_str(part),
        }
    }
    out
}

/// Cuts generic arguments: what is in angle brackets after a name. `<T as Trait>` and `<impl T>` are names and stay.
fn without_generics(name: &str) -> String {
    let (mut out, mut depth, mut before) = (String::with_capacity(name.len()), 0u32, ' ');
    let mut rest = name.chars().peekable();
    while let Some(c) = rest.next() {
        let ahead = || rest.clone().take(5).collect::<String>() == "impl ";
        let opens = c == '<' && (depth > 0 || before.is_alphanumeric() || before == '_' || (before == ':' && !ahead()));
        if opens {
            depth += 1;
            if depth == 1 && before == ':' {
                out.truncate(out.trim_end_matches(':').len());
            }
        } else if depth > 0 && c == '>' && before != '-' {
            depth -= 1;
        } else if depth == 0 {
            out.push(c);
        }
        before = c;
    }
    out
}

/// The crate and modules that a name begins with: without what Rust puts before a type.
pub(crate) fn path_of(name: &str) -> &str {
    let mut path = name;
    loop {
        let before = path;
        for word in ["<", "&", "*const ", "*mut ", "mut ", "dyn ", "impl "] {
            path = path.strip_prefix(word).unwrap_or(path);
        }
        if path == before {
            return path;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_cut_and_the_rest_stays() {
        for (frame, expected) in [
            ("[/home/somebody/target/benchmark/server]", "[server]"),
            ("/usr/lib/libc.so.6", "libc.so.6"),
            ("[libc.so.6]", "[libc.so.6]"),
            ("(deleted /a/b c)", "(deleted b c)"),
            ("[//anon]", "[anon]"),
            ("./target/x", "x"),
            ("~/target/x_[i]", "x"),
            ("core::ops::Div::div", "core::ops::Div::div"),
            ("do_syscall_64_[k]", "do_syscall_64_[k]"),
        ] {
            assert_eq!(shown(frame), expected, "{frame}");
        }
    }

    #[test]
    fn generic_arguments_are_cut_and_types_stay() {
        for (frame, expected) in [
            ("core::option::Option<a::B<u8>>::map::<u8, fn() -> i32>", "core::option::Option::map"),
            ("<server::Service as shmqueue::Handler>::process", "<server::Service as shmqueue::Handler>::process"),
            ("table::reservation::<impl table::Writer>::release", "table::reservation::<impl table::Writer>::release"),
            ("<alloc::vec::Vec<u8> as a::B<c::D>>::drop_[i]", "<alloc::vec::Vec as a::B>::drop"),
            ("a::b::{closure#0}", "a::b::{closure#0}"),
        ] {
            assert_eq!(shown(frame), expected, "{frame}");
        }
    }

    #[test]
    fn a_path_begins_with_its_crate() {
        for name in ["table::a", "<table::a as core::b>::c", "<&mut table::a>::b", "<dyn table::a>::b", "<*const table::a>::b"] {
            assert!(path_of(name).starts_with("table::"), "{name}");
        }
    }
}
