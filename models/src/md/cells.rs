//! Atoms sorted into cells, with the images of those near a wall: who is within a distance of whom.
//!
//! Owns the images and the order. It runs on the host, takes time in proportion to the number of atoms, and gives the
//! same order for the same positions always. It does not know what the distances are for.

/// Atoms and images, in cells. The images are copies of atoms beyond the walls of the box, as far as `reach`.
pub(super) struct Cells {
    reach: f64,
    low: f64,
    side: f64,
    per_side: usize,
    /// Where each cell begins in what follows, and the end.
    starts: Vec<u32>,
    /// By cells: which point it is, and where.
    points: Vec<(u32, [f64; 3])>,
    /// By points: whose copy it is, and how far moved. The atoms themselves come first.
    owners: Vec<(u32, [f64; 3])>,
}

impl Cells {
    /// Of positions (all x, all y, all z, each in the box of this `length`), for distances up to `reach`, at most half
    /// of it.
    pub(super) fn new(positions: &[f64], length: f64, reach: f64) -> Self {
        let owners = owners(positions, length, reach);
        let (low, span) = (-reach, length + 2.0 * reach);
        // Half the reach is a good side for a liquid; where atoms are few, no more cells than points.
        let most = libm::cbrt(owners.len() as f64).ceil();
        let per_side = (2.0 * span / reach).floor().min(most).max(1.0) as usize;
        let mut cells = Self {
            reach,
            low,
            side: span / per_side as f64,
            per_side,
            starts: vec![0; per_side * per_side * per_side + 1],
            points: vec![(0, [0.0; 3]); owners.len()],
            owners,
        };
        cells.sort(positions);
        cells
    }

    /// By counting: stable, so the order within a cell is that of the points.
    fn sort(&mut self, positions: &[f64]) {
        let places: Vec<_> = (0..self.owners.len()).map(|point| self.place(positions, point)).collect();
        let of: Vec<_> = places.iter().map(|place| self.cell(place)).collect();
        for cell in &of {
            self.starts[cell + 1] += 1;
        }
        for cell in 1..self.starts.len() {
            self.starts[cell] += self.starts[cell - 1];
        }
        let mut next = self.starts.clone();
        for (point, (place, cell)) in places.iter().zip(of).enumerate() {
            self.points[next[cell] as usize] = (point as u32, *place);
            next[cell] += 1;
        }
    }

    fn place(&self, positions: &[f64], point: usize) -> [f64; 3] {
        let (owner, shift) = self.owners[point];
        let place = at(positions, owner as usize);
        [place[0] + shift[0], place[1] + shift[1], place[2] + shift[2]]
    }

    fn index(&self, x: f64) -> usize {
        (((x - self.low) / self.side) as usize).min(self.per_side - 1)
    }

    fn cell(&self, place: &[f64; 3]) -> usize {
        let [x, y, z] = place.map(|x| self.index(x));
        (z * self.per_side + y) * self.per_side + x
    }

    /// Calls `each` for every point nearer to the atom than the reach but itself, with the square of the distance.
    pub(super) fn near(&self, positions: &[f64], atom: usize, mut each: impl FnMut(u32, f64)) {
        let place = at(positions, atom);
        let from = place.map(|x| self.index(x - self.reach));
        let to = place.map(|x| self.index(x + self.reach));
        for z in from[2]..=to[2] {
            for y in from[1]..=to[1] {
                let row = (z * self.per_side + y) * self.per_side;
                let (start, end) = (self.starts[row + from[0]], self.starts[row + to[0] + 1]);
                for (point, other) in &self.points[start as usize..end as usize] {
                    let d = [other[0] - place[0], other[1] - place[1], other[2] - place[2]];
                    let square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
                    if square < self.reach * self.reach && *point as usize != atom {
                        each(*point, square);
                    }
                }
            }
        }
    }

    /// Of every point the atom that it is, or is an image of, and how far it is moved. Atoms come first.
    pub(super) fn owners(&self) -> &[(u32, [f64; 3])] {
        &self.owners
    }
}

fn at(positions: &[f64], atom: usize) -> [f64; 3] {
    let atoms = positions.len() / 3;
    [positions[atom], positions[atoms + atom], positions[2 * atoms + atom]]
}

fn owners(positions: &[f64], length: f64, reach: f64) -> Vec<(u32, [f64; 3])> {
    let atoms = positions.len() / 3;
    let mut owners: Vec<_> = (0..atoms as u32).map(|atom| (atom, [0.0; 3])).collect();
    for atom in 0..atoms {
        // Along each axis: here, and beyond a wall that is near.
        let shifts = at(positions, atom).map(|x| {
            let beyond = if x < reach {
                length
            } else if x >= length - reach {
                -length
            } else {
                0.0
            };
            [0.0, beyond]
        });
        for which in 1..8 {
            let pick = |axis: usize| shifts[axis][which >> axis & 1];
            let shift = [pick(0), pick(1), pick(2)];
            // An axis without a wall nearby has no second choice.
            if (0..3).all(|axis| which >> axis & 1 == 0 || shift[axis] != 0.0) {
                owners.push((atom as u32, shift));
            }
        }
    }
    owners
}
