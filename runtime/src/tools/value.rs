//! One JSON value that arrives character by character: where it ends. Only brackets and strings are followed; whether what stands
//! between is JSON is for whoever reads it.

/// What a character was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Took {
    /// A part of the value.
    Part,
    /// Its last.
    Last,
    /// It stands behind: the value was over before.
    Behind,
}

/// How far the value has come.
#[derive(Debug, Default)]
pub(super) struct Value {
    begun: bool,
    /// Brackets that are open.
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Value {
    /// Takes a character; the first is no white space.
    pub fn push(&mut self, c: char) -> Took {
        let first = !std::mem::replace(&mut self.begun, true);
        if self.in_string {
            return self.in_string(c);
        }
        match c {
            // Words and numbers have no end of their own.
            ',' | '}' | ']' if self.depth == 0 => Took::Behind,
            c if self.depth == 0 && !first && c.is_whitespace() => Took::Behind,
            '"' if self.depth > 0 || first => self.open_string(),
            '"' => Took::Behind,
            '{' | '[' => self.nest(),
            '}' | ']' => self.close(),
            _ => Took::Part,
        }
    }

    fn open_string(&mut self) -> Took {
        self.in_string = true;
        Took::Part
    }

    fn nest(&mut self) -> Took {
        self.depth += 1;
        Took::Part
    }

    fn close(&mut self) -> Took {
        self.depth -= 1;
        if self.depth == 0 { Took::Last } else { Took::Part }
    }

    fn in_string(&mut self, c: char) -> Took {
        match c {
            _ if std::mem::take(&mut self.escaped) => {}
            '\\' => self.escaped = true,
            '"' => {
                self.in_string = false;
                return if self.depth == 0 { Took::Last } else { Took::Part };
            }
            _ => {}
        }
        Took::Part
    }
}
