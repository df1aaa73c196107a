package process

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestAProcessIsGoneWhenItHasEnded(t *testing.T) {
	if Gone(os.Getpid(), Mark(), true) {
		t.Error("this process counts as gone")
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	us, err := ours()
	if err != nil {
		t.Fatal(err)
	}
	_, start, err := stat(strconv.Itoa(pid))
	if err != nil {
		t.Fatal(err)
	}
	left := strings.Join([]string{us.boot, us.space, us.clock, start}, " ")
	if Gone(pid, left, true) {
		t.Error("a process that runs counts as gone")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; { // until the kernel has ended it; nobody has waited for it
		if state, _, err := stat(strconv.Itoa(pid)); err != nil || state == "Z" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not end")
		}
	}
	if !Gone(pid, left, true) {
		t.Error("a process that nobody has waited for counts as running")
	}
	cmd.Wait()
	if !Gone(pid, left, false) {
		t.Error("a process that has ended counts as running")
	}
}

func TestAnotherProcessOfTheNumberIsToldApart(t *testing.T) {
	us, err := ours()
	if err != nil {
		t.Fatal(err)
	}
	before := us
	before.start = "1"
	if !Gone(os.Getpid(), strings.Join([]string{before.boot, before.space, before.clock, before.start}, " "), false) {
		t.Error("an earlier process of the same number counts as running")
	}
	for _, left := range []string{"", "x", us.boot, us.boot + " " + us.space + "  1", Mark() + " 1"} {
		if Gone(1<<22+1, left, true) { // more than the kernel's largest number
			t.Errorf("by the mark %q a process counts as gone", left)
		}
	}
}

func TestAKernelStartedAnewCountsOutsideOfContainersOnly(t *testing.T) {
	us := mark{"b2", firstNamespace, "time:[1]", "9"}
	for name, c := range map[string]struct {
		left, us mark
		sameHost bool
		want     verdict
	}{
		"the same kernel":                       {mark{"b2", firstNamespace, "time:[1]", "7"}, us, true, look},
		"the same kernel, whatever the name":    {mark{"b2", firstNamespace, "time:[1]", "7"}, us, false, look},
		"the host was started anew":             {mark{"b1", firstNamespace, "time:[1]", "7"}, us, true, gone},
		"another host":                          {mark{"b1", firstNamespace, "time:[1]", "7"}, us, false, unknown},
		"a container of this kernel":            {mark{"b2", "pid:[5]", "time:[1]", "7"}, us, true, unknown},
		"a container that went elsewhere":       {mark{"b1", "pid:[5]", "time:[1]", "7"}, mark{"b2", "pid:[5]", "time:[1]", "7"}, true, unknown},
		"from a container, its host of before":  {mark{"b1", firstNamespace, "time:[1]", "7"}, mark{"b2", "pid:[5]", "time:[1]", "7"}, true, unknown},
		"its start is counted from elsewhere":   {mark{"b2", firstNamespace, "time:[2]", "7"}, us, true, unknown},
		"the container's number is given again": {mark{"b2", "pid:[5]", "time:[1]", "7"}, mark{"b2", "pid:[5]", "time:[1]", "9"}, true, look},
	} {
		if got := compare(c.left, c.us, c.sameHost); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
