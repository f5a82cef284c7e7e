//! bf16 weights in 12 bits: the low byte of each, and a code of 4 bits for the high one.
//!
//! The high byte of a bf16 number is its sign and most of its exponent, and the weights of a
//! trained matrix have few of them: fifteen cover all but some in ten thousand. A table gives
//! each code its byte, for every four rows; what is not in the table is an *outlier*, which
//! stands in a list behind the panels while its place holds a zero. **Invariant.** Every weight
//! keeps its value. What has other numbers than bf16, or too many outliers, is not taken.

use super::simd::ROWS;

/// Columns of a group.
pub(super) const COLUMNS: usize = 8;
/// Numbers per outlier, at least.
const RARE: usize = 64;

/// 8 columns of 16 rows: the low bytes of four columns, of the next four, and the codes of both,
/// the latter four in the high nibbles.
///
/// A line is four parts of 16 bytes for four rows each. In a part come first two columns of the
/// four rows, then the next two: put byte by byte between their high bytes, half a part is four
/// pairs of neighbours.
pub(super) type Group = [[u8; 4 * ROWS]; 3];

/// The high bytes of a panel: 16 for each four rows. The first is zero.
pub(super) type Tables = [u8; 4 * ROWS];

/// A weight that the table does not hold: `column * 16 + row of the panel`, and its value's bits.
pub(super) type Outlier = [u32; 2];

/// Bytes of one panel, without its outliers.
pub(super) fn panel_bytes(columns: usize) -> usize {
    size_of::<Tables>() + columns / COLUMNS * size_of::<Group>()
}

/// What a matrix needs to be packed like this.
#[derive(Debug)]
pub(super) struct Plan {
    tables: Vec<Tables>,
    /// Where each panel's outliers begin, and the end.
    starts: Vec<u32>,
    columns: usize,
}

impl Plan {
    /// Plans a matrix of panels; `value(panel, row of the panel, column)` is a bf16 number, or
    /// the matrix is not taken. Rows beyond the end of a tensor are zeros.
    pub(super) fn new(
        panels: usize,
        columns: usize,
        value: impl Fn(usize, usize, usize) -> Option<u16>,
    ) -> Option<Self> {
        if !columns.is_multiple_of(COLUMNS) || u32::try_from(columns * ROWS).is_err() {
            return None;
        }
        let mut plan = Self {
            tables: Vec::with_capacity(panels),
            starts: vec![0],
            columns,
        };
        let most = panels * ROWS * columns / RARE;
        let mut outliers = 0;
        for panel in 0..panels {
            let mut tables = [0; 4 * ROWS];
            for (part, table) in tables.chunks_exact_mut(16).enumerate() {
                let mut counts = [0_u32; 256];
                for row in 4 * part..4 * part + 4 {
                    for column in 0..columns {
                        counts[usize::from(value(panel, row, column)? >> 8)] += 1;
                    }
                }
                outliers += fill(table, &counts);
            }
            if outliers > most {
                return None;
            }
            plan.tables.push(tables);
            plan.starts.push(u32::try_from(outliers).ok()?);
        }
        Some(plan)
    }

    /// Bytes of the whole matrix.
    pub(super) fn bytes(&self) -> usize {
        let outliers = self.starts[self.tables.len()] as usize;
        self.tables.len() * panel_bytes(self.columns)
            + self.starts.len() * size_of::<u32>()
            + outliers * size_of::<Outlier>()
    }

    /// Packs the matrix; `value` is that of [`Self::new`].
    pub(super) fn pack(&self, value: impl Fn(usize, usize, usize) -> u16, target: &mut [u8]) {
        let size = panel_bytes(self.columns);
        let (panels, list) = target.split_at_mut(self.tables.len() * size);
        let (starts, outliers) = list.split_at_mut(self.starts.len() * size_of::<u32>());
        starts.copy_from_slice(bytemuck::cast_slice(&self.starts));
        let mut outliers = outliers.chunks_exact_mut(size_of::<Outlier>());
        for (panel, target) in panels.chunks_exact_mut(size).enumerate() {
            let (header, groups) = target.split_at_mut(size_of::<Tables>());
            header.copy_from_slice(&self.tables[panel]);
            groups.fill(0);
            let groups: &mut [Group] = bytemuck::cast_slice_mut(groups);
            for row in 0..ROWS {
                let mut codes = [None; 256];
                let table = &self.tables[panel][row / 4 * 16..][..16];
                for (code, high) in (0_u8..).zip(table) {
                    codes[usize::from(*high)] = Some(code);
                }
                for column in 0..self.columns {
                    let bits = value(panel, row, column);
                    let [high, low] = bits.to_be_bytes();
                    let Some(code) = codes[usize::from(high)] else {
                        let outlier = [(column * ROWS + row) as u32, u32::from(bits) << 16];
                        let target = outliers.next().expect("all of them were counted");
                        target.copy_from_slice(bytemuck::bytes_of(&outlier));
                        continue;
                    };
                    let (line, byte) = place(row, column);
                    groups[column / COLUMNS][line][byte] = low;
                    groups[column / COLUMNS][2][byte] |= code << (4 * line);
                }
            }
        }
    }
}

/// Fills a table with the commonest bytes; gives how many numbers it leaves out.
fn fill(table: &mut [u8], counts: &[u32; 256]) -> usize {
    let mut bytes: Vec<u8> = (1..=u8::MAX).collect();
    // equally common ones in their order, so that a file is packed alike everywhere
    bytes.sort_by_key(|byte| std::cmp::Reverse(counts[usize::from(*byte)]));
    let (common, rare) = bytes.split_at(table.len() - 1);
    table[1..].copy_from_slice(common);
    rare.iter()
        .map(|byte| counts[usize::from(*byte)] as usize)
        .sum()
}

/// Where the low byte of a weight lies in its group: the line and the byte. Its code is in the
/// same byte of the third line, in the nibble of that number.
fn place(row: usize, column: usize) -> (usize, usize) {
    let column = column % COLUMNS;
    let byte = row / 4 * 16 + column % 4 / 2 * 8 + row % 4 * 2 + column % 2;
    (column / 4, byte)
}

/// The tables and the groups of a panel.
#[inline]
pub(super) fn parts(panel: &[u8]) -> (&Tables, &[Group]) {
    let (tables, groups) = panel.split_at(size_of::<Tables>());
    let tables = tables.try_into().expect("it was split there");
    (tables, bytemuck::cast_slice(groups))
}

/// The outliers of one panel of a matrix.
#[inline]
pub(super) fn outliers(matrix: &[u8], [panels, columns]: [usize; 2], panel: usize) -> &[Outlier] {
    let (starts, list) = matrix[panels * panel_bytes(columns)..].split_at((panels + 1) * 4);
    let starts: &[u32] = bytemuck::cast_slice(starts);
    &bytemuck::cast_slice(list)[starts[panel] as usize..starts[panel + 1] as usize]
}

/// The bits of one weight of a group.
pub(super) fn number(tables: &Tables, group: &Group, row: usize, column: usize) -> u16 {
    let (line, byte) = place(row, column);
    let code = group[2][byte] >> (4 * line) & 15;
    let high = tables[row / 4 * 16 + usize::from(code)];
    u16::from_be_bytes([high, group[line][byte]])
}

/// One row with its values.
pub(super) fn row(matrix: &[u8], shape: [usize; 2], row: usize, out: &mut [f32]) {
    let size = panel_bytes(shape[1]);
    let (panel, lane) = (row / ROWS, row % ROWS);
    let (tables, groups) = parts(&matrix[panel * size..(panel + 1) * size]);
    for (column, out) in out.iter_mut().enumerate() {
        let bits = number(tables, &groups[column / COLUMNS], lane, column);
        *out = f32::from_bits(u32::from(bits) << 16);
    }
    for [place, bits] in outliers(matrix, shape, panel) {
        let (column, of) = (*place as usize / ROWS, *place as usize % ROWS);
        if of == lane {
            out[column] = f32::from_bits(*bits);
        }
    }
}
