//! The known traps of The Things Stack's uplinks, one test each, named by number and by what it guards.

mod translation;
