package queue

// OnSmallDisk is onSmallDisk for tests from outside of the package.
var OnSmallDisk = onSmallDisk
