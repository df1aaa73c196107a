package pg

// For tests that compare the two implementations of the page checksum.
var (
	PageSums   = pageSums
	PageSumsGo = pageSumsGo
)
