package backup

// ParseVerifyState is exported to tests.
var ParseVerifyState = parseVerifyState
