//go:build linux && cgo

package early

import "C" // so that early_linux.c is part of the program
