//! The end of a text that comes in pieces, in a bounded room. Pure. Not here: of what.

/// Keeps the last so many bytes.
pub(super) struct Tail {
    kept: Vec<u8>,
    most: usize,
}

impl Tail {
    pub(super) fn new(most: usize) -> Self {
        Self {
            kept: Vec::new(),
            most,
        }
    }

    /// At most three times as much is held: what is dropped is moved once, and not with each piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let piece = &piece[piece.len().saturating_sub(self.most)..];
        self.kept.extend_from_slice(piece);
        if self.kept.len() > 2 * self.most {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let beyond = self.kept.len().saturating_sub(self.most);
        drop(self.kept.drain(..beyond));
    }

    pub(super) fn text(mut self) -> String {
        self.cut();
        String::from_utf8_lossy(&self.kept).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails if a program that says much pushes out why it has ended.
    #[test]
    fn the_end_is_kept() {
        let mut tail = Tail::new(100);
        for _ in 0..200 {
            tail.push(&[b'x'; 90]);
            assert!(tail.kept.len() <= 300);
        }
        tail.push(b"FATAL:  the reason");
        let text = tail.text();
        assert_eq!(text.len(), 100);
        assert!(text.ends_with("xFATAL:  the reason"), "{text}");
        let mut tail = Tail::new(3);
        tail.push(b"abcdef");
        assert_eq!(tail.text(), "def");
        assert_eq!(Tail::new(3).text(), "");
    }
}
