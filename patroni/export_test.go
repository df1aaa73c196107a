package patroni

// EnvConfig gives the configuration that variables alone make.
func EnvConfig(environ []string) (Object, error) { return newEnv(environ).config() }
