#include "textflag.h"

// func shortRecordCRC(header, body []byte) uint32
TEXT ·shortRecordCRC(SB), NOSPLIT, $0-52
	MOVQ header_base+0(FP), DX
	MOVQ body_base+24(FP), SI
	MOVQ body_len+32(FP), CX
	MOVL $0xFFFFFFFF, AX
	SUBQ $32, CX
	JLT  sixteen

loop:
	CRC32Q (SI), AX
	CRC32Q 8(SI), AX
	CRC32Q 16(SI), AX
	CRC32Q 24(SI), AX
	ADDQ   $32, SI
	SUBQ   $32, CX
	JGE    loop

sixteen: // CX is 32 too low, so that its low five bits are right
	BTQ    $4, CX
	JCC    eight
	CRC32Q (SI), AX
	CRC32Q 8(SI), AX
	ADDQ   $16, SI

eight:
	BTQ    $3, CX
	JCC    four
	CRC32Q (SI), AX
	ADDQ   $8, SI

four:
	BTQ    $2, CX
	JCC    two
	CRC32L (SI), AX
	ADDQ   $4, SI

two:
	BTQ    $1, CX
	JCC    one
	CRC32W (SI), AX
	ADDQ   $2, SI

one:
	BTQ    $0, CX
	JCC    header
	CRC32B (SI), AX

header:
	CRC32Q (DX), AX
	CRC32Q 8(DX), AX
	CRC32L 16(DX), AX
	NOTL   AX
	MOVL   AX, ret+48(FP)
	RET
