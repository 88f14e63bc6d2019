from steadydepth.cli import main

main()
