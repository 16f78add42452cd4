//! Lines out of a stream of bytes, each of a bounded length. Knows nothing of what is in them.

/// Cuts a stream into lines. Holds one unfinished line at most.
#[derive(Debug)]
pub(super) struct Lines {
    limit: usize,
    unfinished: Vec<u8>,
    /// The line under way is over the limit; what is left of it is passed over.
    too_long: bool,
}

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Whole(Vec<u8>),
    TooLong,
}

impl Lines {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, unfinished: Vec::new(), too_long: false }
    }

    /// The lines that end in these bytes; empty ones are left out.
    pub(super) fn push(&mut self, bytes: &[u8], mut found: impl FnMut(Line)) {
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
            self.add(&rest[..at]);
            rest = &rest[at + 1..];
            self.end(&mut found);
        }
        self.add(rest);
    }

    /// The stream has ended: a last line needs no line end.
    pub(super) fn finish(&mut self, mut found: impl FnMut(Line)) {
        self.end(&mut found);
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.too_long || self.unfinished.len() + bytes.len() > self.limit {
            self.too_long = true;
            self.unfinished = Vec::new();
        } else {
            self.unfinished.extend_from_slice(bytes);
        }
    }

    fn end(&mut self, found: &mut impl FnMut(Line)) {
        let line = std::mem::take(&mut self.unfinished);
        if std::mem::take(&mut self.too_long) {
            found(Line::TooLong);
        } else if !line.trim_ascii().is_empty() {
            found(Line::Whole(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&[u8]]) -> Vec<Line> {
        let (mut lines, mut found) = (Lines::new(5), Vec::new());
        for chunk in chunks {
            lines.push(chunk, |line| found.push(line));
        }
        lines.finish(|line| found.push(line));
        found
    }

    fn whole(text: &str) -> Line {
        Line::Whole(text.as_bytes().to_vec())
    }

    #[test]
    fn lines_come_whole_however_the_stream_is_cut() {
        let text = b"ab\n\ncd\r\n \nefghi\nlast";
        let expected = [whole("ab"), whole("cd\r"), whole("efghi"), whole("last")];
        assert_eq!(cut(&[text]), expected);
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(cut(&bytes), expected);
    }

    #[test]
    fn a_line_over_the_limit_is_passed_over_and_not_kept() {
        assert_eq!(cut(&[b"abcde", b"fgh", b"ij\nok\n"]), [Line::TooLong, whole("ok")]);
        assert_eq!(cut(&[b"abcdef"]), [Line::TooLong]);
    }
}
