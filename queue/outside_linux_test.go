package queue

// OnSmallDisk is onSmallDisk for tests from outside of the package.
var OnSmallDisk = onSmallDisk

// OutcomeRoom returns how much room of the database is kept for the outcome of a message to so many recipients, in octets.
func OutcomeRoom(recipients int) int64 { return slot{Recipients: int32(recipients)}.outcomeRoom() }
