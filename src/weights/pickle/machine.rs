//! The machine that a pickle is a program for, as far as its instructions are noted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use candle_core::DType;

use super::stored::Stored;

/// No dictionaries of tensors are deeper within each other, and no names of tensors longer.
const DEEPEST: usize = 6;
const LONGEST_NAME: usize = 300;

/// The number of something in the list.
pub(super) type Id = usize;

/// What a pickle's instructions would build.
pub(super) enum Object {
    /// Something of no interest here.
    Other,
    Number(i64),
    Text(String),
    /// A class or function by its full name.
    Global(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// Keys and values.
    Dict(Vec<(Id, Id)>),
    /// What a class or function gives of arguments, and the state that it is then given.
    Made {
        by: Id,
        of: Id,
        state: Option<Id>,
    },
    /// Something that lies beside the pickle.
    Stored(Id),
}

/// The machine: a list of all that was noted, and two sets of references to it.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) objects: Vec<Object>,
    /// None is a mark.
    stack: Vec<Option<Id>>,
    memo: HashMap<u32, Id>,
}

/// What is left of a program.
struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn bytes(&mut self, count: usize) -> Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).context("its instructions are cut short")?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.bytes(N)?.try_into()?)
    }

    fn line(&mut self) -> Result<&'a str> {
        let end = self.0.iter().position(|&byte| byte == b'\n').context("its instructions are cut short")?;
        let line = &self.bytes(end + 1)?[..end];
        Ok(std::str::from_utf8(line)?)
    }

    fn text(&mut self, length: usize) -> Result<Object> {
        Ok(Object::Text(std::str::from_utf8(self.bytes(length)?)?.to_string()))
    }
}

impl Machine {
    /// Runs a program and gives what it leaves.
    pub(super) fn run(&mut self, program: &[u8]) -> Result<Id> {
        let mut program = Program(program);
        loop {
            let [instruction] = program.array()?;
            if instruction == b'.' {
                return self.pop();
            }
            self.step(instruction, &mut program)?;
        }
    }

    /// Opcodes are those of Python's pickletools.
    fn step(&mut self, instruction: u8, program: &mut Program) -> Result<()> {
        let object = match instruction {
            // PROTO, FRAME
            0x80 => return program.bytes(1).map(drop),
            0x95 => return program.bytes(8).map(drop),
            // BINPUT, LONG_BINPUT, MEMOIZE
            b'q' => return self.put(u32::from(program.array::<1>()?[0])),
            b'r' => return self.put(u32::from_le_bytes(program.array()?)),
            0x94 => return self.put(self.memo.len() as u32),
            // BINGET, LONG_BINGET
            b'h' => return self.get(u32::from(program.array::<1>()?[0])),
            b'j' => return self.get(u32::from_le_bytes(program.array()?)),
            // MARK
            b'(' => {
                self.stack.push(None);
                return Ok(());
            }
            // APPEND, APPENDS, SETITEM, SETITEMS, BUILD
            b'a' => {
                let item = self.pop()?;
                return self.extend(vec![item]);
            }
            b'e' | b'u' => {
                let items = self.since_mark()?;
                return self.extend(items);
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                return self.extend(vec![key, value]);
            }
            b'b' => {
                let given = self.pop()?;
                let built = self.last()?;
                if let Object::Made { state, .. } = &mut self.objects[built] {
                    *state = Some(given);
                }
                return Ok(());
            }
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT
            b'N' | 0x88 | 0x89 => Object::Other,
            b'G' => program.bytes(8).map(|_| Object::Other)?,
            // BININT, BININT1, BININT2, LONG1
            b'J' => Object::Number(i32::from_le_bytes(program.array()?).into()),
            b'K' => Object::Number(program.array::<1>()?[0].into()),
            b'M' => Object::Number(u16::from_le_bytes(program.array()?).into()),
            0x8a => {
                let length = usize::from(program.array::<1>()?[0]);
                let bytes = program.bytes(length)?;
                let mut number = [if bytes.last().is_some_and(|&last| last > 127) { 255 } else { 0 }; 8];
                number.get_mut(..length).context("a number in it is too large")?.copy_from_slice(bytes);
                Object::Number(i64::from_le_bytes(number))
            }
            // BINUNICODE, SHORT_BINUNICODE
            b'X' => {
                let length = u32::from_le_bytes(program.array()?);
                program.text(length as usize)?
            }
            0x8c => {
                let [length] = program.array()?;
                program.text(length.into())?
            }
            // GLOBAL, STACK_GLOBAL
            b'c' => Object::Global(format!("{}.{}", program.line()?, program.line()?)),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                match (&self.objects[module], &self.objects[name]) {
                    (Object::Text(module), Object::Text(name)) => Object::Global(format!("{module}.{name}")),
                    _ => bail!("a class in it has no name"),
                }
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3, EMPTY_LIST, EMPTY_DICT
            b')' => Object::Tuple(Vec::new()),
            b't' => Object::Tuple(self.since_mark()?),
            0x85..=0x87 => {
                let mut items = (0..instruction - 0x84).map(|_| self.pop()).collect::<Result<Vec<_>>>()?;
                items.reverse();
                Object::Tuple(items)
            }
            b']' => Object::List(Vec::new()),
            b'}' => Object::Dict(Vec::new()),
            // REDUCE, NEWOBJ
            b'R' | 0x81 => {
                let (of, by) = (self.pop()?, self.pop()?);
                match &self.objects[by] {
                    Object::Global(name) if name == "collections.OrderedDict" => Object::Dict(Vec::new()),
                    _ => Object::Made { by, of, state: None },
                }
            }
            // BINPERSID
            b'Q' => Object::Stored(self.pop()?),
            other => bail!("it has the instruction {other:#04x}, which no dictionary of tensors needs"),
        };
        self.objects.push(object);
        self.stack.push(Some(self.objects.len() - 1));
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        self.stack.pop().flatten().context("its instructions take what is not there")
    }

    fn last(&self) -> Result<Id> {
        self.stack.last().copied().flatten().context("its instructions take what is not there")
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.stack.iter().rposition(Option::is_none).context("its instructions take what is not there")?;
        let items = self.stack.split_off(mark).into_iter().flatten().collect();
        Ok(items)
    }

    fn put(&mut self, place: u32) -> Result<()> {
        let last = self.last()?;
        self.memo.insert(place, last);
        Ok(())
    }

    fn get(&mut self, place: u32) -> Result<()> {
        let known = self.memo.get(&place).context("its instructions refer to what is not there")?;
        self.stack.push(Some(*known));
        Ok(())
    }

    /// Adds items to the list on top of the stack, or keys and values to the dictionary.
    fn extend(&mut self, items: Vec<Id>) -> Result<()> {
        let last = self.last()?;
        match &mut self.objects[last] {
            Object::List(list) => list.extend(items),
            Object::Dict(dict) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => {} // a class of its own
        }
        Ok(())
    }

    /// All tensors by name in the dictionaries below `id`, each of which is looked through once.
    pub(super) fn named(
        &self,
        id: Id,
        before: &str,
        depth: usize,
        seen: &mut BTreeSet<Id>,
        found: &mut BTreeMap<String, Id>,
    ) {
        let Object::Dict(dict) = &self.objects[id] else { return };
        if depth > DEEPEST || !seen.insert(id) {
            return;
        }
        for &(key, value) in dict {
            let Object::Text(key) = &self.objects[key] else { continue };
            if key.len() > LONGEST_NAME {
                continue;
            }
            let inner = match &self.objects[value] {
                Object::Dict(_) => value,
                Object::Made { by, .. } if self.is_torchs(*by) => {
                    found.insert(format!("{before}{key}"), value);
                    continue;
                }
                Object::Made { state: Some(state), .. } => *state,
                _ => continue,
            };
            // a torch.nn.ParameterDict keeps its parameters so
            let before = if key == "_parameters" { before.to_string() } else { format!("{before}{key}.") };
            self.named(inner, &before, depth + 1, seen, found);
        }
    }

    /// Whether that makes tensors.
    pub(super) fn is_torchs(&self, id: Id) -> bool {
        matches!(&self.objects[id], Object::Global(name) if name.starts_with("torch._utils._rebuild_"))
    }

    /// Where a tensor lies; none of one of numbers that no tensor here has, as truth values.
    pub(super) fn stored(&self, id: Id) -> Result<Option<Stored>> {
        let mut id = id;
        let arguments = loop {
            let Object::Made { by, of, .. } = &self.objects[id] else { bail!("it is not made") };
            let Object::Global(by) = &self.objects[*by] else { bail!("nothing is known of it") };
            match (by.as_str(), self.tuple(*of)?) {
                ("torch._utils._rebuild_tensor_v2", arguments) => break arguments,
                // a parameter of a tensor, which came before it
                ("torch._utils._rebuild_parameter", &[inner, ..]) if inner < id => id = inner,
                _ => bail!("it is made by {by}"),
            }
        };
        let &[storage, offset, shape, strides, ..] = arguments else { bail!("it lacks a shape") };
        let Object::Stored(storage) = &self.objects[storage] else { bail!("it lies nowhere") };
        let &[_, kind, key, ..] = self.tuple(*storage)? else { bail!("it lies nowhere") };
        let (Object::Global(kind), Object::Text(key)) = (&self.objects[kind], &self.objects[key]) else {
            bail!("it lies nowhere")
        };
        let dtype = match kind.as_str() {
            "torch.FloatStorage" => DType::F32,
            "torch.DoubleStorage" => DType::F64,
            "torch.HalfStorage" => DType::F16,
            "torch.BFloat16Storage" => DType::BF16,
            "torch.LongStorage" => DType::I64,
            "torch.IntStorage" => DType::I32,
            "torch.ShortStorage" => DType::I16,
            "torch.ByteStorage" => DType::U8,
            _ => return Ok(None),
        };
        let numbers = |id: Id| self.tuple(id)?.iter().map(|&id| self.number(id)).collect::<Result<Vec<_>>>();
        let (shape, strides) = (numbers(shape)?, numbers(strides)?);
        ensure!(shape.len() == strides.len(), "its shape does not fit");
        Ok(Some(Stored { key: key.clone(), dtype, offset: self.number(offset)?, shape, strides }))
    }

    fn tuple(&self, id: Id) -> Result<&[Id]> {
        match &self.objects[id] {
            Object::Tuple(items) => Ok(items),
            _ => bail!("a tuple is missing"),
        }
    }

    fn number(&self, id: Id) -> Result<usize> {
        match &self.objects[id] {
            Object::Number(number) => Ok(usize::try_from(*number)?),
            _ => bail!("a number is missing"),
        }
    }
}
